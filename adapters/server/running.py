"""Runs the app on uvicorn, and ends it without losing an accepted request."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

if TYPE_CHECKING:
    from chatplan.adapters.server.service import Service
    from chatplan.adapters.server.settings import ServerSettings

__all__ = ["Server", "serve"]

log: logging.Logger = logging.getLogger("chatplan.server")
_LAST_SECONDS = 5  # for aborted requests to send their error


class Server(uvicorn.Server):
    """A uvicorn server that goes on listening while it drains, so that probes see 503 and not a closed port.

    The first SIGTERM or SIGINT drains: no further request is taken, and accepted ones have ``shutdown_seconds`` to
    end. A second signal ends at once. ``listening`` is called with the port, when requests are heard.
    """

    def __init__(self, app: FastAPI, listening: Callable[[int], object] = id) -> None:
        self.service: Service = app.state.service
        self._listening = listening
        super().__init__(_config(app, self.service.settings))
        self._drain_until: float | None = None
        self._aborted = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.servers:
            name = self.servers[0].sockets[0].getsockname()
            self._listening(name[1] if isinstance(name, tuple) else 0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own, which would raise the signal again in the end, so that the exit code were not 0.
        if self._drain_until is not None:
            self.should_exit = self.force_exit = True
            return
        self._drain_until = time.monotonic() + self.service.settings.shutdown_seconds
        self.service.drain()

    async def on_tick(self, counter: int) -> bool:
        if await super().on_tick(counter) or self.service.failure is not None:
            return True
        if self._drain_until is None:
            return False
        late = time.monotonic() - self._drain_until
        if late >= 0 and not self._aborted:
            self._aborted = True
            if self.service.accepted:
                log.warning("shutdown_seconds are over: %d requests end with an error", len(self.service.accepted))
            self.service.abort_all()
        return not self.service.accepted or late >= _LAST_SECONDS


def serve(app: FastAPI, listening: Callable[[int], object] = id) -> int:
    """Run the app of ``create_app`` until a signal ends it. Returns the exit code, 1 if the model cannot be loaded.

    ``listening`` is called with the port, 0 for a Unix socket, when requests are heard; the model may still load.
    """
    server = Server(app, listening)
    server.run()
    return 0 if server.started and server.service.failure is None else 1


def _config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        uds=None if settings.uds is None else str(settings.uds),
        ssl_certfile=settings.ssl_certfile,
        ssl_keyfile=settings.ssl_keyfile,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=75,  # longer than proxies keep idle connections, or they would use one that was just closed
        timeout_graceful_shutdown=_LAST_SECONDS,
    )
