"""A stream of chunks that is generated in a thread and stops when its reader does."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from chatplan.response import ChatCompletionChunk

if TYPE_CHECKING:
    from chatplan.run import Run

__all__ = ["Stream"]


Sink = Callable[[ChatCompletionChunk], None]


class _Mailbox:
    """Chunks on their way from the generating thread to a reader, who waits in a thread or in an event loop."""

    def __init__(self) -> None:
        self._chunks: deque[ChatCompletionChunk | Exception | None] = deque()
        self._ready = threading.Condition()
        self._wake: Callable[[], object] | None = None

    def put(self, item: ChatCompletionChunk | Exception | None) -> None:
        with self._ready:
            self._chunks.append(item)
            self._ready.notify()
            if self._wake is not None:
                with suppress(RuntimeError):  # the reader's event loop is gone
                    self._wake()

    def get(self) -> ChatCompletionChunk | Exception | None:
        with self._ready:
            self._ready.wait_for(lambda: self._chunks)
            return self._chunks.popleft()

    async def aget(self) -> ChatCompletionChunk | Exception | None:
        loop = asyncio.get_running_loop()
        event = asyncio.Event()
        with self._ready:
            if self._chunks:
                return self._chunks.popleft()
            self._wake = lambda: loop.call_soon_threadsafe(event.set)
        try:
            await event.wait()
        finally:
            with self._ready:
                self._wake = None
        return self._chunks.popleft()


class Stream:
    """The chunks of one answer, as ``for`` or ``async for`` reads them.

    Generating begins at once. It stops within one token when the reader leaves: at :meth:`close`, at the end of a
    ``with`` block, or when the stream is garbage. Errors while generating are raised where the reader is.
    """

    def __init__(
        self, start: Callable[[Callable[[ChatCompletionChunk], None]], Run], work: Callable[[Run], None]
    ) -> None:
        """``start`` makes the run for a sink; ``work`` answers it, in a thread of its own."""
        mailbox = self._mailbox = _Mailbox()
        run = start(mailbox.put)
        include = run.plan.request.stream_options is not None and run.plan.request.stream_options.include_usage
        self._include_usage = bool(include)
        self._ended = False
        # The thread must not know the stream, or a stream that nobody reads would never be garbage.
        self._cancel = weakref.finalize(self, run.cancel)
        self._thread = threading.Thread(target=_work, args=(run, work, mailbox), name="chatplan-stream", daemon=True)
        _running[self._thread] = run
        self._thread.start()

    def __iter__(self) -> Iterator[ChatCompletionChunk]:
        return self

    def __next__(self) -> ChatCompletionChunk:
        while not self._ended:
            chunk = self._open(self._mailbox.get())
            if chunk is not None:
                return chunk
        raise StopIteration

    def __aiter__(self) -> AsyncIterator[ChatCompletionChunk]:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        while not self._ended:
            chunk = self._open(await self._mailbox.aget())
            if chunk is not None:
                return chunk
        raise StopAsyncIteration

    def close(self) -> None:
        """Stop generating; the stream has no further chunks."""
        self._ended = True
        self._cancel()

    async def aclose(self) -> None:
        """:meth:`close`, for those who iterate asynchronously."""
        self.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    def _open(self, item: ChatCompletionChunk | Exception | None) -> ChatCompletionChunk | None:
        """A chunk for the reader, ``None`` for one that is not shown; ends the stream at its end or an error."""
        if isinstance(item, ChatCompletionChunk):
            return item if item.choices or self._include_usage or item.prompt_logprobs is not None else None
        self._ended = True
        if item is not None:
            raise item
        return None


def _work(run: Run, work: Callable[[Run], None], mailbox: _Mailbox) -> None:
    try:
        work(run)
    finally:
        _running.pop(threading.current_thread(), None)
        mailbox.put(run.error)


_running: dict[threading.Thread, Run] = {}


@atexit.register
def _stop_all() -> None:
    """A thread inside torch when the interpreter goes away would abort the program."""
    running = list(_running.items())
    for _, run in running:
        run.cancel()
    for thread, _ in running:
        thread.join()
