"""How long an answer may take, and how a request that is waited for is ended early."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio

from chatplan.errors import ChatplanError, DeadlineError

if TYPE_CHECKING:
    from chatplan.adapters.server.record import Record
    from chatplan.adapters.server.settings import ServerSettings

__all__ = ["Patience", "StillWaiting"]

_T = TypeVar("_T")


class StillWaiting(Exception):
    """Nothing came in the time that was given; the request goes on."""


class Patience:
    """Waits for parts of one answer, until they come, a limit is over, or :meth:`abort`."""

    def __init__(self, record: Record, settings: ServerSettings) -> None:
        self._record = record
        self._first = record.started + (settings.first_token_seconds or math.inf)
        self._end = record.started + (settings.total_seconds or math.inf)
        self._settings = settings
        self._aborted: ChatplanError | None = None
        self._scope: anyio.CancelScope | None = None

    def abort(self, error: ChatplanError) -> None:
        """End the request with ``error``. In the event loop only."""
        self._aborted = error
        if self._scope is not None:
            self._scope.cancel()

    async def wait(self, work: Callable[[], Awaitable[_T]], at_most: float = math.inf) -> _T:
        """What ``work()`` gives. It is called again when a first token moved the limit.

        Raises:
            StillWaiting: ``at_most`` seconds are over.
            DeadlineError: the time until the first token, or in total, is over.
            ChatplanError: what :meth:`abort` was given.
        """
        until = time.monotonic() + at_most
        while self._aborted is None:
            limit = min(until, self._limit)
            with anyio.move_on_after(limit - time.monotonic()) as self._scope:
                return await work()
            self._scope = None
            if self._aborted is None and time.monotonic() >= self._limit:
                raise self._too_late()
            if time.monotonic() >= until:
                raise StillWaiting
        raise self._aborted

    @property
    def _limit(self) -> float:
        return self._end if self._record.first_token is not None else min(self._first, self._end)

    def _too_late(self) -> DeadlineError:
        if time.monotonic() >= self._end:
            return DeadlineError(f"the answer took longer than total_seconds={self._settings.total_seconds:g}")
        limit = f"first_token_seconds={self._settings.first_token_seconds:g}"
        return DeadlineError(f"the answer did not begin within {limit}")
