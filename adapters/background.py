"""An event loop in a thread of its own, for engines that wait for other machines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["LoopThread", "cancel_all"]

_T = TypeVar("_T")


class LoopThread:
    """Starts with the first coroutine; ends at :meth:`close`, or with the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        """Run ``work`` there. Raises :class:`RuntimeError` once closed."""
        with self._lock:  # so that closing finds all that was taken
            try:
                loop = self._running()
            except RuntimeError:
                work.close()
                raise
            return asyncio.run_coroutine_threadsafe(work, loop)

    def call(self, work: Callable[[], object]) -> None:
        """Call ``work`` there, soon; not once closed."""
        with self._lock:
            if self._loop is not None and not self._closed:
                self._loop.call_soon_threadsafe(work)

    def close(self) -> None:
        """Cancel what is under way, and end the thread."""
        with self._lock:
            loop = None if self._closed else self._loop
            self._closed = True
            if loop is None:
                return
            ending = asyncio.run_coroutine_threadsafe(cancel_all(), loop)
        with suppress(FutureTimeout):
            ending.result(5)
        loop.call_soon_threadsafe(loop.stop)

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._closed:
            raise RuntimeError("the engine is closed")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._run, args=(self._loop,), name=self._name, daemon=True).start()
        return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_forever()
        loop.close()


async def cancel_all() -> None:
    """Cancel the other tasks of this event loop, and wait for their ends."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
