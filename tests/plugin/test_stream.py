"""A stream: read in a thread or in an event loop, closed by its reader, its end, an error, or the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import SECONDS, wait_until

from chatplan.compiler import compile_plan
from chatplan.engine.base import Engine, PromptLogprobs
from chatplan.errors import EngineError, RequestError
from chatplan.folding import fold
from chatplan.hookspecs import hookimpl
from chatplan.manager import Plugins
from chatplan.plan import GenerationPlan
from chatplan.request import parse_request
from chatplan.response import ChatCompletionChunk
from chatplan.row import Row
from chatplan.run import RowRun, execute, launch
from chatplan.standin import stand_in
from chatplan.stream import Stream

TEXT = "hello"
IDS = stand_in().tokenizer.encode(TEXT, add_special_tokens=False)
EOS = 257


class Typist(Engine):
    """Writes ``TEXT`` to every row, or without end; may wait for the reader, or fail, before a token."""

    name = "typist"

    def __init__(self, endless: bool = False, before: Callable[[int], object] = lambda position: None) -> None:
        self.endless, self.before = endless, before
        self.rows: Sequence[Row] = ()

    def run(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        position = 0
        while not all(row.finished for row in rows):
            self.before(position)
            for row in rows:
                row.push(IDS[position % len(IDS)] if self.endless or position < len(IDS) else EOS)
            position += 1
            time.sleep(0.001 if self.endless else 0)

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        raise AssertionError("streams have no prompt_logprobs")


def planned(*plugins: Any, **fields: Any) -> GenerationPlan:
    loaded = Plugins(plugins, installed=False)
    messages = [{"role": "user", "content": "Hi"}]
    request = parse_request({"messages": messages, "stream": True, **fields}, loaded.request_type)
    return compile_plan(request, stand_in(), loaded)


def stream(engine: Engine | None = None, *plugins: Any, **fields: Any) -> Stream:
    plan, used = planned(*plugins, **fields), engine or Typist()

    def begin(sink: Callable[[ChatCompletionChunk], None], done: Callable[[RowRun], None]) -> RowRun:
        run = RowRun(plan, stand_in(), sink)
        launch(used, run, done)
        return run

    return Stream(begin)


def text_of(chunks: Sequence[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_chunks_come_in_order() -> None:
    chunks = list(stream())
    assert text_of(chunks) == TEXT
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1


def test_a_chunk_is_there_before_the_next_one_is_made() -> None:
    read = threading.Semaphore(1)
    with stream(Typist(before=lambda position: read.acquire(timeout=SECONDS))) as chunks:
        next(chunks)  # the role
        seen = []
        for chunk in chunks:
            seen.append(text_of([chunk]))
            read.release()
        assert "".join(seen) == TEXT


def test_chunks_come_in_an_event_loop() -> None:
    async def read() -> list[ChatCompletionChunk]:
        async with stream() as chunks:
            return [chunk async for chunk in chunks]

    assert text_of(asyncio.run(asyncio.wait_for(read(), SECONDS))) == TEXT


def test_the_event_loop_goes_on_while_a_reader_waits() -> None:
    gate = threading.Event()

    async def read() -> str:
        chunks = stream(Typist(before=lambda position: gate.wait(SECONDS)))
        waiting = asyncio.ensure_future(_all(chunks))
        await asyncio.sleep(0.02)  # others get their turn
        assert not waiting.done()
        gate.set()
        return text_of(await asyncio.wait_for(waiting, SECONDS))

    assert asyncio.run(asyncio.wait_for(read(), SECONDS)) == TEXT


async def _all(chunks: Stream) -> list[ChatCompletionChunk]:
    return [chunk async for chunk in chunks]


def test_several_choices_are_told_apart() -> None:
    answer = fold(stream(n=3))
    assert [choice.message.content for choice in answer.choices] == [TEXT] * 3


@pytest.mark.parametrize(
    ("options", "counts"),
    [(None, []), ({"include_usage": True}, [(21, 6)]), ({"include_usage": False}, []), ({}, [(21, 6)])],
)
def test_usage_comes_when_asked_for(options: Any, counts: list[tuple[int, int]]) -> None:
    chunks = list(stream(stream_options=options))
    usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
    assert [(usage.prompt_tokens, usage.completion_tokens) for usage in usages] == counts
    assert [not chunk.choices for chunk in chunks] == [False] * (len(chunks) - len(counts)) + [True] * len(counts)


def test_running_counts() -> None:
    chunks = list(stream(stream_options={"include_usage": True, "continuous_usage_stats": True}))
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == [0, 1, 2, 3, 4, 5, 6, 6]


def test_an_ended_stream_stays_ended() -> None:
    chunks = stream()
    list(chunks)
    assert list(chunks) == []
    with pytest.raises(StopIteration):
        next(chunks)


# --- leaving ----------------------------------------------------------------------------------------------------------


def running() -> tuple[Typist, Stream]:
    engine = Typist(endless=True)
    chunks = stream(engine)
    wait_until(lambda: bool(engine.rows) and len(engine.rows[0].output_ids) > 3)
    return engine, chunks


def stopped(engine: Typist) -> bool:
    return all(row.cancelled and row.finish_reason is None for row in engine.rows)


def test_close_stops_generating() -> None:
    engine, chunks = running()
    next(chunks)
    assert not stopped(engine)
    chunks.close()
    wait_until(lambda: stopped(engine))
    assert list(chunks) == []
    chunks.close()


def test_nobody_is_sent_the_rest_of_a_closed_stream() -> None:
    chunks: list[ChatCompletionChunk] = []
    run = RowRun(planned(), stand_in(), chunks.append)
    run.cancel()
    execute(Typist(), [run])
    assert [chunk for chunk in chunks if not chunk.choices] == []
    assert run.usage is not None


def test_a_closed_stream_tells_every_row_when_all_are_cancelled() -> None:
    run = RowRun(planned(n=3), stand_in(), lambda chunk: None)
    told: list[tuple[int, list[bool]]] = []
    for each in run.rows:
        each.on_cancel = lambda row: told.append((row.index, [other.cancelled for other in run.rows]))
    run.cancel()
    assert told == [(index, [True] * 3) for index in range(3)]


def test_leaving_a_with_block_stops_generating() -> None:
    engine, chunks = running()
    with pytest.raises(ZeroDivisionError), chunks:
        raise ZeroDivisionError
    wait_until(lambda: stopped(engine))


def test_leaving_an_async_with_block_stops_generating() -> None:
    async def leave() -> Typist:
        engine, chunks = running()
        async with chunks:
            await chunks.__anext__()
        return engine

    engine = asyncio.run(asyncio.wait_for(leave(), SECONDS))
    wait_until(lambda: stopped(engine))


def test_garbage_stops_generating() -> None:
    engine, chunks = running()
    iterator = iter(chunks)
    next(iterator)
    del iterator, chunks
    gc.collect()
    wait_until(lambda: stopped(engine))


def test_a_cancelled_reader_can_leave() -> None:
    async def leave() -> Typist:
        gate = threading.Event()
        engine = Typist(endless=True, before=lambda position: gate.wait(SECONDS))
        chunks = stream(engine)
        await chunks.__anext__()  # the role
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(chunks.__anext__(), 0.02)
        await chunks.aclose()
        gate.set()
        return engine

    engine = asyncio.run(asyncio.wait_for(leave(), SECONDS))
    wait_until(lambda: stopped(engine))


# --- errors -----------------------------------------------------------------------------------------------------------


def explode(position: int) -> None:
    if position == 2:
        raise ValueError("out of order")


def test_an_error_is_raised_where_the_reader_is() -> None:
    seen: list[ChatCompletionChunk] = []
    chunks = stream(Typist(before=explode))
    with pytest.raises(EngineError, match="ValueError: out of order") as caught:
        seen.extend(chunks)
    assert text_of(seen) == TEXT[:2]
    assert isinstance(caught.value.__cause__, ValueError)
    assert list(chunks) == []


def test_an_error_is_raised_in_the_event_loop_too() -> None:
    with pytest.raises(EngineError, match="out of order"):
        asyncio.run(asyncio.wait_for(_all(stream(Typist(before=explode))), SECONDS))


def test_errors_of_ours_are_raised_as_they_are() -> None:
    def refuse(position: int) -> None:
        raise RequestError("too odd", param="messages")

    with pytest.raises(RequestError, match="messages: too odd"):
        list(stream(Typist(before=refuse)))


def test_what_a_plugins_stage_raises_while_it_opens_is_raised_at_once() -> None:
    broken = SimpleNamespace(name="broken", output_stages=hookimpl(lambda: [None]))
    with pytest.raises(Exception, match="broken"):
        stream(None, broken)
