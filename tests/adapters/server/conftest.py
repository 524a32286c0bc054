"""A server with the tiny model, as slow as a test needs."""

from __future__ import annotations

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
    with httpx.Client(base_url=tiny_server.url, timeout=30) as client:
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
