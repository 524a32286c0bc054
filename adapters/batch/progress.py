"""What is told while a job runs: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Told"]

_EVERY = 30.0  # seconds between two lines


class Told:
    """The progress of ``total`` requests on standard error, ``done`` of which were answered before."""

    def __init__(self, total: int, done: int) -> None:
        self.total = total
        self._last = time.monotonic()
        self._bar = _bar() if sys.stderr.isatty() else None
        self._task: Any = self._bar.add_task("requests", total=total, completed=done) if self._bar else None

    def __enter__(self) -> Told:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int) -> None:
        """So many requests are answered, by all processes."""
        if self._bar:
            self._bar.update(self._task, completed=done)
        elif time.monotonic() - self._last >= _EVERY:
            self._last = time.monotonic()
            print(f"{done} of {self.total} requests answered", file=sys.stderr, flush=True)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))
