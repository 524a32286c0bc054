"""``chatplan serve``, whose settings are a class of their own, which reads flags, the environment and a file."""

from __future__ import annotations

import typer

from chatplan.errors import RequestError

__all__ = ["serve"]


def serve(context: typer.Context) -> None:
    """Serve a model over HTTP; `chatplan serve --help` lists all settings."""
    try:
        from chatplan.adapters.server.commands import run
    except ModuleNotFoundError as error:
        raise RequestError(f"{error}; `pip install chatplan[serve]` brings what the server needs") from error
    run(context.args)
