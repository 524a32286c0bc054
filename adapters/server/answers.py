"""From a plan to an answer: whole, or as server-sent events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import ExitStack, aclosing
from functools import partial
from typing import TYPE_CHECKING

from starlette.responses import StreamingResponse
from starlette.types import Receive, Send

from chatplan.adapters.server.patience import Patience, StillWaiting
from chatplan.adapters.server.record import has_token
from chatplan.adapters.server.replies import error_body
from chatplan.adapters.server.upstream import own
from chatplan.errors import ChatplanError
from chatplan.folding import fold
from chatplan.response import ChatCompletion, ChatCompletionChunk
from chatplan.stream import Stream

if TYPE_CHECKING:
    from chatplan.adapters.server.record import Record
    from chatplan.adapters.server.service import Service
    from chatplan.plan import GenerationPlan
    from chatplan.run import Run

__all__ = ["EventStream", "PlanStream", "whole"]

_DONE = b"data: [DONE]\n\n"
_MANY = 256
_KEEP_ALIVE = b": keep-alive\n\n"


def _count(record: Record, run: Run) -> None:
    record.prompt_tokens, record.completion_tokens = run.tokens


async def whole(service: Service, plan: GenerationPlan, record: Record, patience: Patience) -> ChatCompletion:
    """The whole answer. The event loop wakes up once, when it is there; cancelling stops it within a token."""
    chunks: list[ChatCompletionChunk] = []

    def take(chunk: ChatCompletionChunk) -> None:
        service.see(record, chunk)
        chunks.append(chunk)

    run, over = service.chat.start_async(plan, take)
    try:
        await patience.wait(over.wait)
    finally:
        run.cancel()
        _count(record, run)
    if run.error is not None:
        raise own(run.error)
    # Many tokens with their alternatives take their time.
    return await asyncio.to_thread(fold, chunks) if len(chunks) > _MANY else fold(chunks)


class PlanStream:
    """The events of one streamed answer. Generating begins at once, and stops at :meth:`close`."""

    def __init__(self, service: Service, plan: GenerationPlan, record: Record, patience: Patience) -> None:
        self._service, self._record, self._patience = service, record, patience
        self._kept: list[ChatCompletionChunk] = []
        self._content: list[ChatCompletionChunk] | None = [] if service.settings.log_content else None
        self._stream = Stream(partial(service.chat.start, plan))
        self._run = self._stream.run

    async def begin(self) -> None:
        """Wait for the first token, so that what fails before it is a plain HTTP answer.

        No longer than ``keep_alive_seconds``, though: then the answer begins, so that proxies see it live.
        """
        try:
            while not self._kept or not has_token(self._kept[-1]):
                chunk = await self._next()
                if chunk is None:
                    return
                self._kept.append(chunk)
        except StillWaiting:
            return

    async def events(self) -> AsyncIterator[bytes]:
        """What goes over the wire: chunks, comments while nothing comes, an error if there is one, and the end."""
        try:
            for chunk in self._kept:
                yield _event(chunk.to_json())
            while True:
                try:
                    chunk_or_end = await self._next()
                except StillWaiting:
                    yield _KEEP_ALIVE
                    continue
                if chunk_or_end is None:
                    break
                yield _event(chunk_or_end.to_json())
        except ChatplanError as error:
            self._service.report(error, self._record)
            yield _event(json.dumps(error_body(error), ensure_ascii=False))
        _count(self._record, self._run)
        yield _DONE

    def close(self) -> None:
        """Stop generating, and count what was generated."""
        self._stream.close()
        _count(self._record, self._run)
        if self._content:
            self._record.content["choices"] = fold(self._content).to_dict()["choices"]

    async def _next(self) -> ChatCompletionChunk | None:
        chunk = await self._patience.wait(self._pull, self._service.settings.keep_alive_seconds)
        if chunk is None:
            return None
        self._service.see(self._record, chunk)
        if self._content is not None:
            self._content.append(chunk)
        return chunk

    async def _pull(self) -> ChatCompletionChunk | None:
        try:
            return await anext(self._stream, None)
        except ChatplanError as error:
            raise own(error) from error


def _event(data: str) -> bytes:
    return f"data: {data}\n\n".encode()


class EventStream(StreamingResponse):
    """Sends events; closes ``stack`` when the last one is sent, the client is gone, or the task is cancelled."""

    def __init__(self, stream: PlanStream, record: Record, stack: ExitStack) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(stream.events(), headers=headers, media_type="text/event-stream")
        self._record, self._stack = record, stack
        self._sent = False

    async def stream_response(self, send: Send) -> None:
        with self._stack:
            async with aclosing(self.body_iterator):  # type: ignore[type-var]
                await super().stream_response(send)
                self._sent = True

    async def listen_for_disconnect(self, receive: Receive) -> None:
        await super().listen_for_disconnect(receive)
        self._record.disconnected = not self._sent  # servers say so after the end, too
