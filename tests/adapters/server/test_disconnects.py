"""A client that goes away stops what was generated for it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from waiting import wait_until

from chatplan import Chat, hookimpl
from chatplan.adapters.server.disconnects import ClientGone, unless_gone

Ask = Callable[..., httpx.Response]
TOKENS = 900
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "ignore_eos": True,
    "max_tokens": TOKENS,
    "slow": 0.02,  # eighteen seconds for the whole answer
}


@pytest.fixture
def server(serve: Any, slow_chat: Chat) -> Iterator[Any]:
    with serve(slow_chat, keep_alive_seconds=0.05) as server:
        yield server


def counted(server: Any, name: str) -> float:
    samples = [
        sample.value
        for metric in server.service.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == f"chatplan_{name}_total"
    ]
    return float(sum(samples))


def send(server: Any, path: str, body: dict[str, Any]) -> socket.socket:
    """A connection on which the request is sent."""
    host, port = server.url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("begun", [False, True])
def test_leaving_frees_the_model(server: Any, ask: Ask, stream: bool, begun: bool) -> None:
    with send(server, "/v1/chat/completions", {**BODY, "stream": stream}):
        wait_until(lambda: server.service.under_way)
        if begun:
            server.wait_generating()
    server.wait_idle(60)
    assert counted(server, "disconnects") == 1
    generated = counted(server, "completion_tokens")
    assert generated < TOKENS
    assert generated > 0 or not begun
    with server.client() as client:
        assert ask(client).status_code == 200  # the engine runs one call at a time
    assert counted(server, "disconnects") == 1


def test_leaving_in_mid_stream(server: Any, ask: Ask) -> None:
    with server.client() as client:
        for _ in range(5):
            with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as answer:
                next(answer.iter_lines())
        server.wait_idle(60)
        assert ask(client).status_code == 200
        assert counted(server, "disconnects") == 5
        assert counted(server, "completion_tokens") < TOKENS


def test_leaving_while_waiting_for_the_engine(server: Any, ask: Ask) -> None:
    with server.client() as client:
        with client.stream("POST", "/v1/chat/completions", json={**BODY, "slow": 0.05, "stream": True}) as busy:
            assert busy.status_code == 200
            server.wait_generating()
            with send(server, "/v1/chat/completions", BODY):
                wait_until(lambda: server.service.waiting == 1)
            with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as waiting:
                assert ": keep-alive" in waiting.iter_lines()
            wait_until(lambda: len(server.service.under_way) == 1, 30)
            assert counted(server, "disconnects") == 2
            assert counted(server, "completion_tokens") == 0  # of those who left; the first goes on
        server.wait_idle(60)
        assert ask(client).status_code == 200


def test_the_answers_end_is_no_disconnect(server: Any, ask: Ask) -> None:
    with server.client() as client:
        for stream in (False, True):
            assert ask(client, stream=stream).status_code == 200
    server.wait_idle()
    assert counted(server, "disconnects") == 0
    assert counted(server, "completion_tokens") == 8


def test_leaving_while_the_request_is_planned(serve: Any, new_chat: Any, ask: Ask) -> None:
    """Nothing is generated for it, and its id and its place are free at once."""

    class Plans:
        name = "plans"

        def __init__(self) -> None:
            self.begun, self.opened = threading.Event(), threading.Event()

        @hookimpl
        def check_request(self, request: Any) -> None:
            if request.request_id == "left" and not self.begun.is_set():
                self.begun.set()
                assert self.opened.wait(40), "nobody opened"

    plans = Plans()
    with serve(new_chat(plugins=[plans])) as server, server.client() as client:
        with send(server, "/v1/chat/completions/explain", {**BODY, "slow": None, "request_id": "left"}):
            assert plans.begun.wait(30)
        server.wait_idle()
        plans.opened.set()
        assert counted(server, "disconnects") == 1
        assert ask(client, request_id="left").status_code == 200


# --- without a server ------------------------------------------------------------------------------------------------


def request(*messages: dict[str, Any]) -> Request:
    """A request whose client sends these, and then nothing."""
    left = list(messages)

    async def receive() -> Any:
        if left:
            return left.pop(0)
        return await asyncio.Event().wait()

    return Request({"type": "http", "headers": []}, receive)


def test_work_that_nobody_waits_for_is_cancelled() -> None:
    async def leave() -> bool:
        cancelled = False

        async def work() -> None:
            nonlocal cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

        with pytest.raises(ClientGone):
            await asyncio.wait_for(unless_gone(request({"type": "http.disconnect"}), work()), 30)
        return cancelled

    assert asyncio.run(leave())


def test_work_that_somebody_waits_for_is_returned_or_raised() -> None:
    async def give() -> int:
        await asyncio.sleep(0.01)
        return 3

    async def fail() -> int:
        raise ValueError("wrong")

    rest = {"type": "http.request", "body": b"", "more_body": False}
    assert asyncio.run(unless_gone(request(rest), give())) == 3
    with pytest.raises(ValueError, match="wrong"):
        asyncio.run(unless_gone(request(rest), fail()))
