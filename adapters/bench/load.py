"""Levels of load: so many clients, each of which sends its next request when it has the answer to the last."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from chatplan.adapters.bench.samples import Sample, figures
from chatplan.adapters.bench.targets import Target
from chatplan.adapters.bench.words import long_prompt
from chatplan.errors import ChatplanError, EngineError

__all__ = ["Level", "Plan", "sweep"]

Body = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        concurrency: clients of each level.
        requests: of each level; ``None`` for three a client, at least eight.
        fields: of each request; they win over what is set here.
        prompt: the text of all prompts; ``None`` for one of its own for each request, of about ``prompt_tokens``.
        warm_up: requests before the first level, which are not measured.
        seconds: the most time of a level; what is under way then is stopped.
    """

    concurrency: tuple[int, ...]
    requests: int | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    prompt: str | None = None
    prompt_tokens: int = 128
    max_tokens: int = 64
    warm_up: int = 2
    seconds: float = 120.0

    def count(self, clients: int) -> int:
        """Requests of a level with so many clients."""
        return self.requests or max(3 * clients, 8)

    def bodies(self, at: int) -> list[Body]:
        """The requests of the level at this place; a level that is there again has prompts of its own."""
        clients = self.concurrency[at]
        count, before = self.count(clients), self.concurrency[:at].count(clients)
        return [self.body(f"{clients} {number}") for number in range(before * count, (before + 1) * count)]

    def body(self, name: str) -> Body:
        """A request; another name gives another prompt."""
        text = self.prompt if self.prompt is not None else long_prompt(self.prompt_tokens, name)
        standing = {"messages": [{"role": "user", "content": text}], "temperature": 0, "seed": 0}
        if not {"max_tokens", "max_completion_tokens"} & self.fields.keys():
            standing["max_tokens"] = self.max_tokens
        return {**standing, **self.fields, "stream": True, "stream_options": {"include_usage": True}}


@dataclass
class Level:
    """One level of load; ``samples`` are in the order in which they ended."""

    concurrency: int
    start: float = field(default_factory=time.perf_counter)
    samples: list[Sample] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """What it comes to, over the time until the last answer."""
        seconds = max((sample.end for sample in self.samples), default=self.start) - self.start
        return {"concurrency": self.concurrency, **figures(self.samples, seconds)}

    def to_dict(self) -> dict[str, Any]:
        """The figures, and every sample."""
        return {**self.figures(), "samples": [sample.to_dict(self.start) for sample in self.samples]}


async def sweep(target: Target, plan: Plan, levels: list[Level], tell: Callable[[Level], None]) -> None:
    """Measure each level and append it to ``levels``, which is good to read whenever this ends, also early.

    ``tell`` is called after each answer.

    Raises:
        ChatplanError: a request before the first level was refused or failed.
    """
    await _warm_up(target, plan)
    for at, clients in enumerate(plan.concurrency):
        level = Level(clients)
        levels.append(level)
        bodies = iter(plan.bodies(at))
        try:
            await _at_once(target, bodies, level, plan.seconds, tell)
        finally:
            for sample in level.samples:
                sample.read()


async def _warm_up(target: Target, plan: Plan) -> None:
    """Ask a few times, together, for nothing but to know that it works."""

    async def once(number: int) -> None:
        async with aclosing(target.ask(plan.body(f"warm-up {number}"))) as events:
            async for _ in events:
                pass

    try:
        await asyncio.wait_for(asyncio.gather(*map(once, range(plan.warm_up))), plan.seconds)
    except asyncio.TimeoutError:
        raise EngineError(f"the first requests were not answered within {plan.seconds:g} s") from None


async def _at_once(
    target: Target, bodies: Iterator[Body], level: Level, seconds: float, tell: Callable[[Level], None]
) -> None:
    level.start = time.perf_counter()

    async def client() -> None:
        for body in bodies:
            left = level.start + seconds - time.perf_counter()
            if left <= 0:
                return
            level.samples.append(await _measure(target, body, left, seconds))
            tell(level)

    await asyncio.gather(*(client() for _ in range(level.concurrency)))


async def _measure(target: Target, body: Body, left: float, seconds: float) -> Sample:
    sample = Sample(time.perf_counter())
    try:
        await asyncio.wait_for(_listen(target, body, sample), left)
    except asyncio.TimeoutError:
        sample.error = f"stopped: the level had {seconds:g} s"
    except ChatplanError as error:
        sample.error = str(error)
    sample.end = time.perf_counter()
    return sample


async def _listen(target: Target, body: Body, sample: Sample) -> None:
    async with aclosing(target.ask(body)) as events:
        async for event in events:
            sample.events.append((time.perf_counter(), event))
