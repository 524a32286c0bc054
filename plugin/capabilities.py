"""Which engine can honour which field: the one table behind refusals, ``chatplan explain`` and the documentation."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["UNSUPPORTED", "engines_for"]

UNSUPPORTED: Mapping[str, Mapping[str, str]] = {
    "generate": {},
    "continuous": {},
}
"""For each engine, the request fields it cannot honour, and why."""


def engines_for(field: str | None) -> tuple[str, ...]:
    """The engines that can honour ``field``; all of them for ``None``."""
    return tuple(engine for engine, cannot in UNSUPPORTED.items() if field not in cannot)
