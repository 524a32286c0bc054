"""One at a time, the most urgent first."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["Turns"]


class Turns:
    """A lock that goes to the lowest ``priority`` that waits for it, and among equals to who came first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: set[tuple[int, int]] = set()
        self._taken = False

    @contextmanager
    def turn(self, priority: int = 0) -> Iterator[None]:
        """Wait, hold, and let the next one have it."""
        with self._changed:
            place = (priority, next(self._numbers))
            self._waiting.add(place)
            try:
                self._changed.wait_for(lambda: not self._taken and min(self._waiting) == place)
            finally:  # also when Ctrl-C ends the waiting
                self._waiting.remove(place)
                self._changed.notify_all()
            self._taken = True
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._changed.notify_all()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)
