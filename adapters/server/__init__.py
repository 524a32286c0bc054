"""The HTTP server: ``create_app`` for any ASGI server, ``serve`` for uvicorn, ``chatplan serve`` for the shell."""

from __future__ import annotations

from chatplan.adapters.server.app import create_app
from chatplan.adapters.server.running import Server, serve
from chatplan.adapters.server.settings import ServerSettings

__all__ = ["Server", "ServerSettings", "create_app", "serve"]
