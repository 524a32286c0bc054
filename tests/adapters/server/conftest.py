"""A server with the tiny model, as slow as a test needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest

from chatplan import Chat

HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="session")
def tiny_server(serve: Callable[..., Any], slow_chat: Chat) -> Iterator[Any]:
    """A server with the tiny model and the default settings."""
    with serve(slow_chat) as server:
        yield server


@pytest.fixture
def http(tiny_server: Any) -> Iterator[httpx.Client]:
    """A client of that server; no request of a test before is left."""
    tiny_server.wait_idle()
    with httpx.Client(base_url=tiny_server.url, timeout=60) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    """A request that ends soon, and always alike."""
    return {"messages": HI, "max_tokens": 4, "temperature": 0, "ignore_eos": True, **fields}


@pytest.fixture(scope="session")
def ask() -> Callable[..., httpx.Response]:
    """Posts a chat request: ``ask(client, n=2)``."""

    def post(client: httpx.Client, headers: Mapping[str, str] | None = None, **fields: Any) -> httpx.Response:
        return client.post("/v1/chat/completions", json=body(**fields), headers=headers)

    return post


@pytest.fixture(scope="session")
def stream() -> Callable[..., Any]:
    """Opens the stream of a request: ``with stream(client, n=2) as answer``."""

    def post(client: httpx.Client, headers: Mapping[str, str] | None = None, **fields: Any) -> Any:
        return client.stream("POST", "/v1/chat/completions", json=body(stream=True, **fields), headers=headers)

    return post


class Turned:
    """What stands for the module `time`: its clock goes on, ``ahead`` seconds before the real one."""

    ahead = 0.0

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> Turned:
    """The clock of deadlines, which a test may turn."""
    clock = Turned()
    monkeypatch.setattr("chatplan.adapters.server.patience.time", clock)
    return clock


@pytest.fixture
def noon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of day stands still, so that no minute of a quota ends."""
    monkeypatch.setattr("time.time", lambda: 1_800_000_000.0)
