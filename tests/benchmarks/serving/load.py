"""Clients of a chat-completions server: how many tokens a second it gives them, and how soon.

    python tests/benchmarks/serving/load.py --url http://127.0.0.1:8000 --concurrency 8

``--quick`` starts a server with a tiny model.

Each client sends its next request when it has the answer to the last. What arrives is only noted with its time, and
read after the last answer, so that the clients take little from a server on the same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import httpx
from prompts import messages
from servers import quick, stand_in

CHAT = "/v1/chat/completions"


@dataclass
class Answer:
    """One streamed answer; times in seconds on the clock of ``time.perf_counter``."""

    start: float
    end: float = 0.0
    status: int = 0
    pieces: list[tuple[float, bytes]] = field(default_factory=list)
    error: str | None = None
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0

    def read(self) -> None:
        """Find the times of the events that carry text, and the token counts, in what arrived."""
        rest, counted = b"", False
        for moment, piece in self.pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                if line.startswith(b"data:") and b"[DONE]" not in line:
                    counted |= self._event(moment, json.loads(line[5:]))
        if not counted:
            self.tokens = len(self.times)
        if self.error is None and (self.status != 200 or not self.times):
            self.error = f"status {self.status}: " + b"".join(piece for _, piece in self.pieces)[:200].decode()
        self.pieces.clear()

    def _event(self, moment: float, event: Any) -> bool:
        if event.get("error"):
            self.error = str(event["error"])
        if any((choice.get("delta") or {}).get("content") for choice in event.get("choices") or ()):
            self.times.append(moment)
        usage = event.get("usage")
        if usage:
            self.tokens, self.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
        return bool(usage)


async def ask(client: httpx.AsyncClient, body: dict[str, Any]) -> Answer:
    """Send one request and note what arrives; an error is part of the answer."""
    answer = Answer(time.perf_counter())
    try:
        async with client.stream("POST", CHAT, json=body) as response:
            answer.status = response.status_code
            async for piece in response.aiter_raw():
                answer.pieces.append((time.perf_counter(), piece))
    except httpx.HTTPError as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.end = time.perf_counter()
    return answer


async def run(url: str, bodies: list[dict[str, Any]], concurrency: int, timeout: float) -> list[Answer]:
    """Send all requests, so many at a time; in the order in which they ended."""
    waiting, answers = iter(bodies), list[Answer]()

    async def client_loop(client: httpx.AsyncClient, waiting: Iterator[dict[str, Any]]) -> None:
        for body in waiting:
            answers.append(await ask(client, body))

    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=timeout, trust_env=False) as client:
        await asyncio.gather(*(client_loop(client, waiting) for _ in range(concurrency)))
    return answers


def bodies(options: argparse.Namespace, count: int, name: str) -> list[dict[str, Any]]:
    """So many requests; another ``name`` gives other prompts."""
    common = {
        "model": options.model,
        "max_tokens": options.tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **json.loads(options.extra),
    }
    shared = options.prompts == "shared"
    return [{**common, "messages": messages(f"{name} {number}", shared)} for number in range(count)]


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds; NaN when there is nothing."""
    if not seconds:
        return {"p50": float("nan"), "p99": float("nan")}
    cuts = statistics.quantiles(seconds * 2 if len(seconds) == 1 else seconds, n=100, method="inclusive")
    return {"p50": round(cuts[49] * 1000, 2), "p99": round(cuts[98] * 1000, 2)}


def report(answers: list[Answer]) -> dict[str, Any]:
    """The figures of a run; answers with an error are counted and left out of the times."""
    for answer in answers:
        answer.read()
    good = [answer for answer in answers if answer.error is None]
    errors = [answer.error for answer in answers if answer.error is not None]
    seconds = max(answer.end for answer in answers) - min(answer.start for answer in answers)
    tokens = sum(answer.tokens for answer in good)
    between = [b - a for answer in good for a, b in zip(answer.times, answer.times[1:], strict=False)]
    steps = [(a.times[-1] - a.times[0]) / (a.tokens - 1) for a in good if a.tokens > 1 and len(a.times) > 1]
    return {
        "requests": len(answers),
        "errors": len(errors),
        "first_errors": errors[:3],
        "prompt_tokens": statistics.fmean(answer.prompt_tokens for answer in good) if good else 0,
        "output_tokens": tokens,
        "seconds": round(seconds, 3),
        "tokens_per_s": round(tokens / seconds, 2),
        "ttft_ms": percentiles([answer.times[0] - answer.start for answer in good]),
        "between_ms": percentiles(between),
        "step_ms": percentiles(steps),
        "tokens_per_event": round(tokens / max(sum(len(answer.times) for answer in good), 1), 2),
    }


def arguments() -> argparse.Namespace:
    parser = quick.arguments(__doc__)
    parser.add_argument("--url", help="of the server, without /v1")
    parser.add_argument("--model", default="", help="the name that requests ask for; default the first of /v1/models")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--requests", type=int, default=0, help="default three for each client, at least eight")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens of each answer")
    parser.add_argument("--prompts", choices=("unique", "shared"), default="unique")
    parser.add_argument("--name", default="0", help="another name gives other prompts")
    parser.add_argument("--warm", type=int, default=-1, help="requests before the measured ones; default one a client")
    parser.add_argument("--extra", default="{}", help="further fields of each request, as JSON")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds without a byte after which to give up")
    options = quick.parsed(parser, concurrency=2, requests=3, tokens=4, warm=1)
    if options.url is None and not options.quick:
        parser.error("--url: no server is named")
    return options


def main() -> None:
    options = arguments()
    with stand_in() if options.url is None else nullcontext(options.url) as url:
        json.dump(measured(url, options), sys.stdout)
    print()


def measured(url: str, options: argparse.Namespace) -> dict[str, Any]:
    options.model = options.model or httpx.get(f"{url}/v1/models", timeout=60).json()["data"][0]["id"]
    warm = options.concurrency if options.warm < 0 else options.warm
    count = options.requests or max(3 * options.concurrency, 8)
    level = f"{options.name} {options.concurrency}"
    before = bodies(options, warm, f"warm-up {level}")
    asyncio.run(run(url, before, options.concurrency, options.timeout))
    gc.disable()
    return report(asyncio.run(run(url, bodies(options, count, level), options.concurrency, options.timeout)))


if __name__ == "__main__":
    main()
