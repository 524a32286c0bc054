"""A level of load: so many at once, one after the other, for so long; asked of a target that is as slow as it says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

import pytest

from chatplan import EngineError, RequestError
from chatplan.adapters.bench.commands import _levels, _Run
from chatplan.adapters.bench.load import Level, Plan, sweep
from chatplan.adapters.bench.samples import Sample

SAYS = {"choices": [{"delta": {"content": "a"}}]}


class Asked:
    """A target that knows what it was asked; ``answer`` is awaited for each request, with how many there were."""

    def __init__(self, answer: Callable[[int], Any]) -> None:
        self.about: dict[str, str] = {}
        self.answer, self.bodies, self.now, self.most, self.left = answer, list[Any](), 0, 0, 0

    async def ask(self, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        self.bodies.append(body)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            yield SAYS
            await self.answer(len(self.bodies))
            yield SAYS
        finally:
            self.now -= 1
            self.left += 1

    async def close(self) -> None: ...


def measure(target: Asked, plan: Plan) -> tuple[list[Level], list[int]]:
    """The levels, and how many answers there were whenever it was told."""
    levels: list[Level] = []
    told: list[int] = []
    asyncio.run(asyncio.wait_for(sweep(target, plan, levels, lambda level: told.append(len(level.samples))), 60))
    return levels, told


async def soon(number: int) -> None:
    for _ in range(1 + number % 3):
        await asyncio.sleep(0)


async def never(number: int) -> None:
    await asyncio.Event().wait()


def test_each_level_has_its_clients_and_sends_its_requests() -> None:
    target = Asked(soon)
    levels, told = measure(target, Plan((1, 3), requests=7, warm_up=0))
    assert [(level.concurrency, len(level.samples)) for level in levels] == [(1, 7), (3, 7)]
    assert told == [*range(1, 8), *range(1, 8)]
    assert (target.most, target.now) == (3, 0)
    plan = Plan((1, 3), requests=7)
    assert target.bodies[:7] == plan.bodies(0)
    assert target.bodies[7:] == plan.bodies(1)
    assert {(sample.tokens, len(sample.times), sample.error) for level in levels for sample in level.samples} == {
        (2, 2, None)
    }


def test_there_are_never_more_at_once_than_clients() -> None:
    target = Asked(soon)
    measure(target, Plan((2,), requests=9, warm_up=0))
    assert target.most == 2


def test_what_is_under_way_when_the_time_is_over_is_stopped_and_nothing_begins_then() -> None:
    target = Asked(lambda number: soon(0) if number == 1 else never(number))
    (level,), told = measure(target, Plan((1,), requests=9, warm_up=0, seconds=0.5))
    assert [sample.error for sample in level.samples] == [None, "stopped: the level had 0.5 s"]
    assert (len(target.bodies), target.left, told) == (2, 2, [1, 2])
    assert level.samples[1].times  # what came until then is kept
    assert level.samples[1].end > level.samples[1].start


def test_an_answer_that_fails_is_counted_and_the_others_go_on() -> None:
    async def fail(number: int) -> None:
        if number == 2:
            raise EngineError("no memory")

    (level,), _ = measure(Asked(fail), Plan((1,), requests=3, warm_up=0))
    assert [sample.error for sample in level.samples] == [None, "no memory", None]


def test_the_warm_up_is_asked_at_once_and_not_measured() -> None:
    target = Asked(soon)
    (level,), told = measure(target, Plan((1,), requests=2, warm_up=4))
    assert (target.most, len(target.bodies), len(level.samples), told) == (4, 6, 2, [1, 2])
    prompts = {body["messages"][0]["content"] for body in target.bodies}
    assert len(prompts) == 6


def test_a_warm_up_that_fails_or_does_not_end_is_told() -> None:
    async def refuse(number: int) -> None:
        raise RequestError("no", param="n")

    with pytest.raises(RequestError):
        measure(Asked(refuse), Plan((1,)))
    with pytest.raises(EngineError, match=r"not answered within 0.2 s"):
        measure(Asked(never), Plan((1,), seconds=0.2))


def test_only_when_all_failed_there_is_no_answer() -> None:
    run = _Run(Plan((1,)))
    run.check()
    run.levels = [Level(1, 0.0, [Sample(0.0, error="a")]), Level(2, 0.0, [Sample(0.0, error="b")])]
    with pytest.raises(EngineError, match="none of 2 requests was answered; the first: a"):
        run.check()
    run.levels[1].samples.append(Sample(0.0))
    run.check()


def test_levels_are_from_1_to_4096() -> None:
    assert _levels("4096,1, 2") == (4096, 1, 2)
    for wrong in ("4097", "0", "1,0", "", "1;2", "-1"):
        with pytest.raises(RequestError):
            _levels(wrong)
