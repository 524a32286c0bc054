"""A server with the tiny model, and a plugin that makes it as slow as a test needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import httpx
import pytest
import torch
from transformers import LogitsProcessor

from chatplan import Chat, ChatCompletionRequest, Stage, hookimpl

HI = [{"role": "user", "content": "Hi"}]


class Slow:
    """A plugin: each token takes ``slow`` seconds; ``fail`` breaks the model in its first token."""

    name = "slow"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"slow": float, "fail": bool}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        slow, fail = request.get("slow"), request.get("fail")
        return [(Stage.BIAS, _Sleep(slow or 0, bool(fail)))] if slow or fail else None


class _Sleep(LogitsProcessor):
    def __init__(self, seconds: float, fail: bool) -> None:
        self.seconds, self.fail = seconds, fail

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        time.sleep(self.seconds)
        if self.fail:
            raise RuntimeError("a secret of the inside")
        return scores


@pytest.fixture(scope="session")
def slow_chat(new_chat: Callable[..., Chat]) -> Chat:
    """The tiny model, with the plugin :class:`Slow`."""
    return new_chat(plugins=[Slow()])


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
