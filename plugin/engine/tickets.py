"""Rows on their way through continuous batching: what is known of each beside the row itself."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatplan.row import Row

__all__ = ["Group", "Ticket"]


class Group:
    """Rows that were submitted together; ``done`` is called once, when the last of them is over."""

    def __init__(self, rows: Sequence[Row], done: Callable[[], None]) -> None:
        self._left = set(rows)
        self._done: Callable[[], None] | None = done
        self._lock = threading.Lock()

    def over(self, row: Row) -> None:
        """``row`` takes no further step; telling it twice does no harm."""
        with self._lock:
            done = self._done if self._left == {row} else None
            self._left.discard(row)
        if done is not None:
            self._done = None  # the last batch is remembered, and should keep nobody alive
            done()


class Ticket:
    """One row in the engine: its name there, its place in the queue, and who waits for it.

    Attributes:
        number: counts the tickets of an engine, so of two the lower came first.
        followers: tickets of the same prompt that wait for this one to have read it.
    """

    def __init__(self, row: Row, group: Group, number: int) -> None:
        self.row = row
        self.group = group
        self.number = number
        self.name: str = f"{number}-{row.plan.request_id}"
        self.priority: int = row.plan.request.priority
        self.salt: str | None = row.plan.request.cache_salt
        self.followers: list[Ticket] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Ticket:
        # transformers copies a request's arguments when it starts it over; the row stays the same one.
        return self

    def salted(self, token_ids: Sequence[int]) -> list[int]:
        """Numbers that stand for the tokens where cached prefixes are compared: others for each salt."""
        if self.salt is None:
            return list(token_ids)
        key = hashlib.blake2b(self.salt.encode(), digest_size=32).digest()
        return [_stand_in(key, token) for token in token_ids]


@lru_cache(maxsize=2**16)
def _stand_in(key: bytes, token: int) -> int:
    digest = hashlib.blake2b(token.to_bytes(4, "little"), key=key, digest_size=4).digest()
    return int.from_bytes(digest, "little", signed=True)
