"""The command line ``chatplan``: one module for each command, and one place where errors become a line."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatplan.adapters.cli.commands import app

__all__ = ["app", "main"]


def main() -> None:
    """The installed command. Ctrl-C ends it also while its modules load; a second one ends it at once."""
    try:
        from chatplan.adapters.cli.commands import app

        app(prog_name="chatplan")
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def __getattr__(name: str) -> Any:
    if name == "app":
        from chatplan.adapters.cli.commands import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), "app"]
