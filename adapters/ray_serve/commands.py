"""One command: a cluster of this machine, or the one that RAY_ADDRESS names, with the application on it."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence

from chatplan.adapters.ray_serve.settings import RaySettings
from chatplan.adapters.server.commands import read_settings_of
from chatplan.adapters.server.loading import check_access, load_plugins
from chatplan.adapters.server.logs import configure
from chatplan.errors import ChatplanError

__all__ = ["main"]

_NAME = "chatplan"
_LONG = 3600


def main(arguments: Sequence[str]) -> int:
    """Run until SIGTERM or SIGINT; then accepted requests have ``shutdown_seconds`` to end. Returns the exit code."""
    try:
        settings = read_settings_of(RaySettings, "python -m chatplan.adapters.ray_serve", arguments)
        if settings.model is None:
            raise ValueError("model: which one?")
        check_access(settings, load_plugins(settings))
        configure(settings)
    except (ValueError, ChatplanError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return _run(settings)


def _run(settings: RaySettings) -> int:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray import serve

    from chatplan.adapters.ray_serve.deploying import application

    try:
        serve.start(proxy_location="EveryNode", http_options=_http_options(settings))
        # After Ray has set its own handler, which would end the process at once.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        serve.run(application(settings), name=_NAME)
        while True:
            time.sleep(_LONG)
    except KeyboardInterrupt:
        serve.delete(_NAME)  # apart from the proxies, which pass on what is under way
        return 0
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]


def _http_options(settings: RaySettings) -> dict[str, object]:
    options: dict[str, object] = {"host": settings.host, "port": settings.port}
    if settings.ssl_certfile is not None:
        options |= {"ssl_certfile": str(settings.ssl_certfile), "ssl_keyfile": str(settings.ssl_keyfile)}
    return options
