"""Many clients with mixed requests for a long time, then clients that leave: was anything wrong, is anything left?

    python tests/benchmarks/serving/soak.py --seconds 600 --clients 64 --disconnects 500

Every request asks for something that only its own answer can have, streamed or not, and comes again with the same
seed. The exit code is 1 when an answer was wrong, lost, another one's, or not the same again; when memory grew after
the warm-up; or when the server still works or holds cache after the last client left. ``--quick`` takes a tiny
model and little time, in which memory says nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import os
import shlex
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
from kinds import KINDS, fold
from prompts import messages
from servers import SERVERS, Running, cores, quick, start

CHAT = "/v1/chat/completions"
GAUGES = ("requests_running", "requests_waiting", "engine_rows_running", "engine_rows_waiting", "cache_usage_ratio")
SHOWN = 20


class Soak:
    """What was asked and what was wrong. ``seen`` keeps each request's first answer, for when it comes again."""

    def __init__(self, client: httpx.AsyncClient, different: int) -> None:
        self.client, self.different = client, different
        self.numbers = itertools.count()
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seen: dict[tuple[str, int], Any] = {}

    def fault(self, text: str) -> None:
        self.faults.append(text)
        if len(self.faults) <= SHOWN:
            print(f"    {text}", flush=True)

    async def work(self, until: float) -> None:
        """One client: a request after the other."""
        while time.monotonic() < until:
            await self.one(next(self.numbers))

    async def one(self, number: int) -> None:
        """Ask, check, and compare with the first answer to the same request."""
        random = Random(number)
        name, which = random.choice([*KINDS]), random.randrange(self.different)
        body, check = KINDS[name](which)
        body = body | {"request_id": uuid.uuid4().hex}
        self.counts[name] += 1
        try:
            answer = await self.answer(body, stream=random.random() < 0.5)
            text = told(answer)
            if answer["id"] != f"chatcmpl-{body['request_id']}":
                self.fault(f"{name} {which}: the answer is that of {answer['id']}")
            elif problem := check(answer):
                self.fault(f"{name} {which}: {problem}: {text}")
            elif (first := self.seen.setdefault((name, which), text)) != text:
                self.fault(f"{name} {which}: once {first}, now {text}")
        except (httpx.HTTPError, RuntimeError, LookupError, TypeError, ValueError) as error:
            self.fault(f"{name} {which}: {type(error).__name__}: {error}")

    async def answer(self, body: dict[str, Any], stream: bool) -> Any:
        """The whole answer, either way.

        Raises:
            RuntimeError: a status other than 200, an error event, or a stream without its end.
        """
        if not stream:
            response = await self.client.post(CHAT, json=body)
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}: {response.text[:300]}")
            return response.json()
        body = body | {"stream": True, "stream_options": {"include_usage": True}}
        async with self.client.stream("POST", CHAT, json=body) as response:
            lines = [line async for line in response.aiter_lines()]
        events = [line[5:].strip() for line in lines if line.startswith("data:")]
        if response.status_code != 200 or events[-1:] != ["[DONE]"] or '{"error"' in events[-2]:
            raise RuntimeError(f"status {response.status_code}: {lines[-4:]}")
        return fold([json.loads(event) for event in events[:-1]])

    async def leave(self, number: int) -> None:
        """Ask for a long stream, and go: before it begins, or after some events."""
        body = {"messages": messages(f"leave {number}"), "max_tokens": 400, "ignore_eos": True, "stream": True}
        self.counts["left"] += 1
        try:
            await asyncio.wait_for(self.read_events(body, number % 5), 0.1 if number % 5 == 0 else 120)
        except asyncio.TimeoutError:
            if number % 5:
                self.fault(f"leave {number}: no event came")
        except (httpx.HTTPError, RuntimeError) as error:
            self.fault(f"leave {number}: {type(error).__name__}: {error}")

    async def read_events(self, body: dict[str, Any], count: int) -> None:
        async with self.client.stream("POST", CHAT, json=body) as response:
            if response.status_code != 200:
                raise RuntimeError(f"status {response.status_code}")
            async for line in response.aiter_lines():
                count -= line.startswith("data:")
                if count < 0:
                    return

    async def left_over(self) -> dict[str, float]:
        """The gauges that are not zero, or not there."""
        text = (await self.client.get("/metrics")).text
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        found = {name: float(values.get(f"chatplan_{name}", "nan")) for name in GAUGES}
        return {name: value for name, value in found.items() if value != 0}


def told(answer: Any) -> list[Any]:
    """What has to be the same when a request comes again."""
    texts = []
    for choice in answer["choices"]:
        calls = [call["function"] for call in choice["message"].get("tool_calls") or ()]
        texts.append([choice["message"]["content"] or "", calls, choice["finish_reason"], choice["stop_reason"]])
    return texts


async def steady(soak: Soak, running: Running, options: argparse.Namespace) -> None:
    """All clients for the whole time; memory is looked at every few seconds from the end of the warm-up."""
    began = time.monotonic()
    clients = [asyncio.create_task(soak.work(began + options.seconds)) for _ in range(options.clients)]
    await asyncio.sleep(options.seconds * options.warm_up)
    found: list[float] = []
    while time.monotonic() < began + options.seconds:
        found.append(running.memory()["pss"])
        await asyncio.sleep(max(options.seconds / 120, 1))
    await asyncio.gather(*clients)
    quarter = max(len(found) // 4, 1)
    first, last = statistics.median(found[:quarter]), statistics.median(found[-quarter:])
    print(f"{sum(soak.counts.values())} requests in {time.monotonic() - began:.0f} s: {dict(soak.counts)}")
    print(f"memory after the warm-up {first:.0f} MB, at the end {last:.0f} MB, highest {max(found):.0f} MB")
    if last - first > options.growth:
        soak.fault(f"memory grew by {last - first:.0f} MB")


async def disconnects(soak: Soak, options: argparse.Namespace) -> None:
    """So many clients that leave, and then a look at what they left behind."""
    places = asyncio.Semaphore(options.clients)

    async def one(number: int) -> None:
        async with places:
            await soak.leave(number)

    await asyncio.gather(*(one(number) for number in range(options.disconnects)))
    left, until = await soak.left_over(), time.monotonic() + options.patience
    while left and time.monotonic() < until:
        await asyncio.sleep(0.5)
        left = await soak.left_over()
    print(f"{options.disconnects} clients left; afterwards not zero: {left or 'nothing'}")
    if left:
        soak.fault(f"after {options.patience:g} s still {left}")


async def run(running: Running, options: argparse.Namespace) -> list[str]:
    """What was wrong."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    settings: dict[str, Any] = {"limits": limits, "timeout": options.timeout, "trust_env": False}
    async with httpx.AsyncClient(base_url=running.url, **settings) as client:
        soak = Soak(client, options.different)
        if options.seconds:
            await steady(soak, running, options)
        if options.disconnects:
            await disconnects(soak, options)
    return soak.faults


def arguments() -> argparse.Namespace:
    parser = quick.arguments(__doc__)
    parser.add_argument("--server", default="chatplan", choices=[name for name in SERVERS if "chatplan" in name])
    parser.add_argument("--model", type=Path, default=os.environ.get("CHATPLAN_MODEL"), help="the checkpoint's folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=len(cores()))
    parser.add_argument("--flags", type=shlex.split, default=[], help='of `chatplan serve`: --flags="--batch-size 32"')
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--warm-up", type=float, default=0.2, help="part of the time after which memory is looked at")
    parser.add_argument("--different", type=int, default=20, help="different requests of each kind")
    parser.add_argument("--growth", type=float, default=50, help="MB by which memory may grow after the warm-up")
    parser.add_argument("--disconnects", type=int, default=500)
    parser.add_argument("--patience", type=float, default=15, help="seconds for the server to notice that they left")
    parser.add_argument("--timeout", type=float, default=300, help="seconds without a byte: the answer is lost")
    small = {
        "threads": 1,
        "clients": 4,
        "seconds": 3,
        "different": 2,
        "growth": math.inf,
        "disconnects": 10,
        "patience": 60,
    }
    options = quick.parsed(parser, **small)
    if options.quick:
        options.model = Path(quick.checkpoint())
    if options.model is None:
        parser.error("--model, or CHATPLAN_MODEL: no checkpoint is named")
    return options


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server is left behind
    log = Path(tempfile.mkdtemp(prefix="chatplan-soak-")) / "server.log"
    print(f"{options.server}, {options.dtype}, {options.threads} threads, log in {log}", flush=True)
    with start(options.server, options.model, options.dtype, options.threads, log, options.flags) as running:
        faults = asyncio.run(run(running, options))
    print(f"{len(faults)} faults" if faults else "nothing was wrong")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
