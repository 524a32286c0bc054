"""A client that goes away stops what was generated for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from chatplan import Chat

Ask = Callable[..., httpx.Response]
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": "Hi"}],
    "ignore_eos": True,
    "max_tokens": 900,
    "slow": 0.01,  # nine seconds for the whole answer
}


@pytest.fixture
def server(serve: Any, slow_chat: Chat) -> Iterator[Any]:
    with serve(slow_chat, keep_alive_seconds=0.05) as server:
        yield server


def gone(server: Any) -> float:
    (sample,) = [
        sample.value
        for metric in server.service.metrics.registry.collect()
        for sample in metric.samples
        if sample.name == "chatplan_disconnects_total"
    ]
    return float(sample)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("wait", [0.0, 0.3])
def test_leaving_frees_the_model(server: Any, ask: Ask, stream: bool, wait: float) -> None:
    raw = httpx.Request("POST", f"{server.url}/v1/chat/completions", json={**BODY, "stream": stream})
    head = f"POST {raw.url.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}Content-Length: {len(raw.content)}\r\n\r\n".encode() + raw.content)
        while not server.service.under_way:
            time.sleep(0.005)
        time.sleep(wait)
    left = time.monotonic()
    server.wait_idle(2)
    with httpx.Client(base_url=server.url) as client:
        assert ask(client).status_code == 200  # the engine runs one call at a time
    assert time.monotonic() - left < 3
    assert gone(server) == 1


def test_leaving_in_mid_stream(server: Any, ask: Ask) -> None:
    with httpx.Client(base_url=server.url) as client:
        for _ in range(10):
            with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as answer:
                next(answer.iter_lines())
        server.wait_idle(2)
        assert ask(client).status_code == 200
        assert gone(server) == 10


def test_leaving_while_waiting_for_the_engine(server: Any, ask: Ask) -> None:
    with httpx.Client(base_url=server.url) as client:
        with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as busy:
            assert busy.status_code == 200
            with pytest.raises(httpx.ReadTimeout):
                client.post("/v1/chat/completions", json=BODY, timeout=0.2)
            with client.stream("POST", "/v1/chat/completions", json={**BODY, "stream": True}) as waiting:
                assert ": keep-alive" in waiting.iter_lines()
            until = time.monotonic() + 2
            while len(server.service.under_way) > 1 and time.monotonic() < until:
                time.sleep(0.01)
            assert len(server.service.under_way) == 1
        server.wait_idle(2)
        assert ask(client).status_code == 200
