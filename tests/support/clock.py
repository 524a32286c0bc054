"""Times for parametrised tests: their ids say the same in every process, and the clock is read when a test runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class After:
    """So many seconds from now; before now where negative."""

    seconds: int


def dated(value: Any) -> Any:
    """Return the value, its times as seconds since the epoch."""
    if isinstance(value, After):
        return int(time.time()) + value.seconds
    return {name: dated(item) for name, item in value.items()} if isinstance(value, Mapping) else value
