"""A stream of chunks that is generated elsewhere and stops when its reader does."""

from __future__ import annotations

import asyncio
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

    def __init__(self, begin: Callable[[Sink, Callable[[Run], None]], Run]) -> None:
        """``begin`` starts to answer a run for a sink, and calls its second argument when the run is over."""
        mailbox = self._mailbox = _Mailbox()
        # What is called from other threads must not know the stream, or one that nobody reads would never be garbage.
        run = begin(mailbox.put, lambda ended: mailbox.put(ended.error))
        self.run: Run = run
        include = run.plan.request.stream_options is not None and run.plan.request.stream_options.include_usage
        self._include_usage = bool(include)
        self._ended = False
        self._cancel = weakref.finalize(self, run.cancel)

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
