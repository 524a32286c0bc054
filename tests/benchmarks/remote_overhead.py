"""What the engine ``remote`` costs beside the bare client of OpenAI, on a server that answers at once.

    python tests/benchmarks/remote_overhead.py [--pairs N] [--url http://host:port] [--quick]

Requests through both alternate, so that the machine's moods meet both. Without ``--url`` the server is a stub in a
process of its own; with it, any server of the protocol, which then answers one token.
"""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import openai
from quick import Popen, arguments, parsed

from chatplan.adapters.remote import remote_chat

LIMIT = 3.0  # ms at the median
MESSAGES: list[Any] = [
    {"role": "system", "content": "You answer in one sentence."},
    {"role": "user", "content": "What is the capital of France, and why is it there? " * 20},
]
FIELDS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 1, "seed": 7, "stop": ["\n\n"]}
CHUNKS = 32


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pairs", type=int, default=400)
    parser.add_argument("--url", help="a server that runs; absent, a stub")
    options = parsed(parser, pairs=3)
    with stub() if options.url is None else given(options.url) as url:
        rows = [*of_threads(url, options.pairs), *asyncio.run(of_loops(url, options.pairs))]
    print(f"{'request':<22}{'bare ms':>10}{'remote ms':>11}{'more ms':>10}{'ratio':>8}")
    for name, bare, remote in rows:
        print(f"{name:<22}{bare:>10.2f}{remote:>11.2f}{remote - bare:>10.2f}{remote / bare:>8.2f}")
    worst = max(remote - bare for _, bare, remote in rows)
    print(f"at most {LIMIT} ms more: {worst <= LIMIT}")


Row = tuple[str, float, float]


def of_threads(url: str, pairs: int) -> Iterator[Row]:
    """Callers that block."""
    chat = remote_chat(url)
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    body: Any = {"model": chat.model.name, "messages": MESSAGES, **FIELDS}

    def bare_stream() -> None:
        with client.chat.completions.create(**body, stream=True) as stream:
            for _ in stream:
                pass

    def remote_stream() -> None:
        with chat.stream(MESSAGES, **FIELDS) as stream:
            for _ in stream:
                pass

    yield "whole", *paired(lambda: client.chat.completions.create(**body), lambda: chat(MESSAGES, **FIELDS), pairs)
    yield f"stream of {CHUNKS}", *paired(bare_stream, remote_stream, pairs)
    chat.close()


async def of_loops(url: str, pairs: int) -> list[Row]:
    """Callers in an event loop."""
    chat = remote_chat(url)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        body: Any = {"model": chat.model.name, "messages": MESSAGES, **FIELDS}

        async def bare_stream() -> None:
            async for _ in await client.chat.completions.create(**body, stream=True):
                pass

        async def remote_stream() -> None:
            async with chat.stream(MESSAGES, **FIELDS) as stream:
                async for _ in stream:
                    pass

        whole = await paired_async(
            lambda: client.chat.completions.create(**body), lambda: chat.acomplete(MESSAGES, **FIELDS), pairs
        )
        streamed = await paired_async(bare_stream, remote_stream, pairs)
    chat.close()
    return [("whole, async", *whole), (f"stream of {CHUNKS}, async", *streamed)]


def paired(bare: Callable[[], object], remote: Callable[[], object], pairs: int) -> tuple[float, float]:
    """Medians in ms."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for call, kept in zip((bare, remote), times, strict=True):
            began = time.perf_counter()
            call()
            kept.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


async def paired_async(
    bare: Callable[[], Awaitable[object]], remote: Callable[[], Awaitable[object]], pairs: int
) -> tuple[float, float]:
    """Medians in ms."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(pairs):
        for call, kept in zip((bare, remote), times, strict=True):
            began = time.perf_counter()
            await call()
            kept.append((time.perf_counter() - began) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


# --- the stub ---------------------------------------------------------------------------------------------------------

IDENTITY = {"id": "chatcmpl-1", "created": 1, "model": "stub"}
USAGE = {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10}
WHOLE = {
    **IDENTITY,
    "object": "chat.completion",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Paris."}, "finish_reason": "stop"}],
    "usage": USAGE,
}
MODELS = {"object": "list", "data": [{"id": "stub", "object": "model", "created": 1, "owned_by": "vllm"}]}


def events() -> list[Any]:
    first = [{"index": 0, "delta": {"role": "assistant", "content": ""}}]
    middle = [[{"index": 0, "delta": {"content": " word"}}] for _ in range(CHUNKS)]
    last = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    chunks = [{**IDENTITY, "object": "chat.completion.chunk", "choices": each} for each in (first, *middle, last)]
    return [*chunks, {**IDENTITY, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers what it has ready."""
    body = b""
    while scope["type"] == "http":
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    kind, parts = "application/json", [json.dumps(MODELS if scope["path"] == "/v1/models" else WHOLE).encode()]
    if b'"stream":true' in body.replace(b" ", b""):
        kind = "text/event-stream"
        parts = [*(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events()), b"data: [DONE]\n\n"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def stub() -> Iterator[str]:
    """A server in a process of its own."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = Popen([__file__, "--stub", str(port)])
    try:
        url = f"http://127.0.0.1:{port}"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=20)
        client.models.list()
        yield url
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def given(url: str) -> Iterator[str]:
    yield url.rstrip("/").removesuffix("/v1")


if __name__ == "__main__":
    if "--stub" in sys.argv:
        import uvicorn

        uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[-1]), log_level="warning", lifespan="off")
    else:
        main()
