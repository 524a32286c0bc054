"""``chatplan playground``: ``chatplan serve``, and the page in a browser."""

from __future__ import annotations

import threading
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.adapters.server.settings import ServerSettings

__all__ = ["CONTEXT_SETTINGS", "page_address", "playground"]

CONTEXT_SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
"""For the command's registration: flags that it does not know are those of ``chatplan serve``."""


def playground(
    context: typer.Context,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, and open nothing.")] = False,
) -> None:
    """Serve a model, and open a page to try it: `chatplan playground MODEL`, with all flags of `chatplan serve`."""
    try:
        from chatplan.adapters.server.commands import run
    except ModuleNotFoundError as error:
        raise RequestError(f"{error}; `pip install chatplan[serve]` brings what the server needs") from error

    def listening(settings: ServerSettings, port: int) -> None:
        address = page_address(settings, port)
        typer.echo(f"The playground is at {address}")
        if not no_browser and settings.uds is None:
            # In a thread: some browsers answer only when they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    run(context.args, "chatplan playground", listening, playground=True)


def page_address(settings: ServerSettings, port: int) -> str:
    """Where a browser on this machine finds the page; for a Unix socket, which none can open, where a proxy does."""
    if settings.uds is not None:
        return f"/playground of the Unix socket {settings.uds}"
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if settings.ssl_certfile else 'http'}://{name}:{port}/playground"
