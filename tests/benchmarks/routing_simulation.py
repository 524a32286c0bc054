"""How much of all prompts replicas find in their caches, by how requests are routed. Simulated: no model, no network.

For each replica there are 16 conversations at a time, each followed by another one: a system prompt, then on average 4
turns, each a message of 50 tokens and an answer of 200, which takes 20 ms a token; a prompt is read at 5,000 tokens a
second, and before each message there is a pause of 4 seconds on average. So about half of them are being answered. A
replica's cache holds 200,000 tokens, and drops what was used least recently. Popularity of system prompts is Zipf's.
Routers know how many requests each replica has. The first half of the requests is not counted.

    python tests/benchmarks/routing_simulation.py [--quick]
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import numpy
from quick import arguments

from chatplan.adapters.ray_serve.routing import OVERLOAD

CONVERSATIONS, CACHE, CHARS_A_TOKEN = 16, 200_000, 4
MESSAGE, ANSWER, TURNS = 50, 200, 4
READ, WRITE, PAUSE = 1 / 5_000, 0.02, 4
REQUESTS = 80  # for each replica

Segments = list[tuple[Hashable, int]]


class Cache:
    """Prefixes of prompts, in segments."""

    def __init__(self) -> None:
        self._segments: OrderedDict[Hashable, int] = OrderedDict()
        self._tokens = 0

    def read(self, prompt: Segments) -> int:
        """How many tokens of ``prompt`` were there; afterwards all are."""
        found, broken = 0, False
        for name, tokens in prompt:
            broken = broken or name not in self._segments
            found += 0 if broken else tokens
        for name, tokens in reversed(prompt):  # so that the end goes before the beginning
            self._tokens += tokens - self._segments.pop(name, 0)
            self._segments[name] = tokens
        while self._tokens > CACHE:
            self._tokens -= self._segments.popitem(last=False)[1]
        return found


@dataclass
class Conversation:
    """``turns`` to come, what has been said, and a number for the beginning of its prompts."""

    turns: int
    number: int
    said: Segments
    prefix: int


@dataclass
class Workload:
    """``prompts`` system prompts of ``tokens`` each."""

    name: str
    prompts: int
    tokens: int
    weights: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = [1 / rank for rank in range(1, self.prompts + 1)]

    def begin(self, number: int, chars: int, random: random.Random) -> Conversation:
        which = random.choices(range(self.prompts), self.weights)[0]
        turns = 1 + min(int(random.expovariate(1 / (TURNS - 0.5))), 20)
        # The first message is the conversation's own: a prefix that reaches it tells conversations apart.
        own = chars > self.tokens * CHARS_A_TOKEN
        return Conversation(turns, number, [(("system", which), self.tokens)], 2 * number if own else 2 * which + 1)


Route = Callable[[Conversation, list[int], random.Random], int]


def anywhere(conversation: Conversation, loads: list[int], random: random.Random) -> int:
    return random.randrange(len(loads))


def less_loaded_of_two(conversation: Conversation, loads: list[int], random: random.Random) -> int:
    return min(random.sample(range(len(loads)), 2), key=loads.__getitem__)


def by_prefix(conversation: Conversation, loads: list[int], random: random.Random) -> int:
    """As ``PrefixRouter``; an order that the prefix seeds stands for the order of its hashes."""
    most = math.ceil(OVERLOAD * (sum(loads) + 1) / len(loads))
    order = numpy.random.default_rng(conversation.prefix).permutation(len(loads))
    return next(int(place) for place in order if loads[place] < most)


def simulate(workload: Workload, replicas: int, route: Route, chars: int, each: int = REQUESTS) -> tuple[float, float]:
    """The part of prompt tokens that was cached, and the greatest load over the mean load, on average."""
    rng = random.Random(1)
    caches, loads = [Cache() for _ in range(replicas)], [0] * replicas
    talks = (workload.begin(number, chars, rng) for number in itertools.count())
    # When, a number that tells apart, the replica whose answer ends (none: a message comes), and the conversation.
    events = [(rng.uniform(0, 2 * PAUSE), -number, -1, next(talks)) for number in range(replicas * CONVERSATIONS)]
    heapq.heapify(events)
    number = found = seen = 0
    peaks = []
    while number < replicas * each:
        now, _, place, talk = heapq.heappop(events)
        number += place < 0
        if place >= 0:
            loads[place] -= 1
            after = talk if talk.turns else next(talks)
            heapq.heappush(events, (now + rng.expovariate(1 / PAUSE), number * 2, -1, after))
            continue
        place = route(talk, loads, rng)
        loads[place] += 1
        cached, size = turn(talk, caches[place])
        seconds = (size - cached) * READ + ANSWER * WRITE * rng.uniform(0.5, 1.5)
        heapq.heappush(events, (now + seconds, number * 2 + 1, place, talk))
        if number > replicas * each / 2:
            found, seen = found + cached, seen + size
            if number % 100 == 0:
                peaks.append(max(loads) * replicas / sum(loads))
    return found / seen, sum(peaks) / len(peaks)


def turn(talk: Conversation, cache: Cache) -> tuple[int, int]:
    """A message and its answer: how many tokens of the prompt were cached, and how many there were."""
    prompt = [*talk.said, ((talk.number, talk.turns, "message"), MESSAGE)]
    cached = cache.read(prompt)
    talk.said = [*prompt, ((talk.number, talk.turns, "answer"), ANSWER)]
    cache.read(talk.said)
    talk.turns -= 1
    return cached, sum(tokens for _, tokens in prompt)


def main() -> None:
    quick = arguments(__doc__).parse_args().quick
    routes: list[tuple[str, Route, int]] = [
        ("random", anywhere, 0),
        ("less loaded of two", less_loaded_of_two, 0),
        *((f"prefix of {chars:,}", by_prefix, chars) for chars in (256, 2_048, 16_384)),
    ]
    workloads = [Workload("one short system prompt", 1, 100), Workload("1,000 long system prompts", 1_000, 2_000)]
    print(f"{'workload':28}{'replicas':>9}  {'routing':20}{'cached':>8}{'peak load':>11}")
    for workload in workloads:
        for replicas in (10,) if quick else (10, 100, 1_000):
            for name, route, chars in routes:
                cached, peak = simulate(workload, replicas, route, chars, 30 if quick else REQUESTS)
                print(f"{workload.name:28}{replicas:9,}  {name:20}{cached:8.0%}{peak:10.1f}x", flush=True)


if __name__ == "__main__":
    main()
