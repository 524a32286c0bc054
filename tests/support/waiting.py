"""To wait for an event, never for a time. A bound is only for what never comes: it says what was missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SECONDS = 60.0  # as a busy machine needs


def wait_until(condition: Callable[[], object], seconds: float = SECONDS, what: str = "") -> None:
    """Return as soon as the condition holds; fail when it does not within so many seconds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds:g} s: {what or condition}"
        time.sleep(0.005)


def join(thread: threading.Thread, seconds: float = SECONDS) -> None:
    """Wait for the end of a thread; fail when it does not come."""
    thread.join(seconds)
    assert not thread.is_alive(), f"{thread.name} still runs after {seconds:g} s"
