"""A server on a free port, in a thread, for tests that speak HTTP; and a model that is slow or fails."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM, LogitsProcessor
from waiting import join, wait_until

from chatplan import Chat, ChatCompletionRequest, ChatPipeline, Stage, hookimpl

if TYPE_CHECKING:
    from chatplan.adapters.server import Server

# The server's packages come with an extra, which the oldest transformers is tested without.
collect_ignore = [] if find_spec("fastapi") and find_spec("pydantic_settings") else ["server", "auth"]
if not find_spec("openai"):
    collect_ignore.append("remote")
if not find_spec("playwright"):
    collect_ignore.append("playground")
if not find_spec("ray"):
    collect_ignore.append("ray_serve")


class Running:
    """A server that runs: its address, and the service behind it."""

    def __init__(self, server: Server, port: int) -> None:
        self.server, self.service = server, server.service
        self.url = f"http://127.0.0.1:{port}"

    def client(self) -> httpx.Client:
        """A client with the patience that a busy machine needs."""
        return httpx.Client(base_url=self.url, timeout=60)

    def wait_idle(self, seconds: float = 30) -> None:
        """Until no request is under way."""
        service = self.service
        wait_until(lambda: not service.accepted and not service.under_way, seconds, "no request is under way")

    def wait_generating(self, requests: int = 1) -> None:
        """Until so many requests have a token, and all others under way have none."""
        service = self.service
        wait_until(lambda: len(service.under_way) - service.waiting == requests, 30, f"{requests} requests generate")


Serve = Callable[..., Any]


@contextmanager
def running(chat: Any, prepare: Callable[[Any], object] = id, **settings: Any) -> Iterator[Running]:
    """Serves ``chat`` on a free port of the loopback interface; ``settings`` are those of ``ServerSettings``.

    ``prepare`` may change the app before it starts.
    """
    from chatplan.adapters.server import Server, ServerSettings, create_app

    app = create_app(chat, ServerSettings(**{"shutdown_seconds": 0, **settings}))
    prepare(app)
    server = Server(app)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],), name="server")
    thread.start()
    try:
        wait_until(lambda: server.started or not thread.is_alive(), what="the server starts")
        yield Running(server, listener.getsockname()[1])
    finally:
        server.handle_exit(signal.SIGTERM, None)
        join(thread, 30)


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serves a chat inside a ``with`` block: ``with serve(chat, max_queue=3) as server: server.url``."""
    return running


@pytest.fixture(scope="session")
def server_url(pipe: ChatPipeline) -> Iterator[str]:
    """The address of a server with the real model."""
    with running(pipe.chat) as server:
        yield server.url


@pytest.fixture(scope="session")
def readable_model(new_model: Callable[[], LlamaForCausalLM]) -> LlamaForCausalLM:
    """The tiny model; its likeliest tokens are printable ASCII, so no answer ends by itself or within a character."""
    model = new_model()
    with torch.no_grad():
        model.lm_head.weight[len(range(ord("!"), ord("~") + 1)) :] = 0
    return model


# --- a model as slow as a test needs ----------------------------------------------------------------------------------


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
def slow_plugin() -> Slow:
    """The plugin :class:`Slow`."""
    return Slow()


@pytest.fixture(scope="session")
def slow_chat(new_chat: Callable[..., Chat]) -> Chat:
    """The tiny model, with the plugin :class:`Slow`."""
    return new_chat(plugins=[Slow()])


class Hold:
    """A plugin: a request with the field ``hold`` waits for `let_go` before it has so many tokens and one more."""

    name = "hold"

    def __init__(self) -> None:
        self._open = threading.Event()

    def let_go(self) -> None:
        self._open.set()

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"hold": int}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        tokens = request.get("hold")
        return None if tokens is None else [(Stage.BIAS, _Hold(tokens, self._open))]


class _Hold(LogitsProcessor):
    def __init__(self, tokens: int, gate: threading.Event) -> None:
        self.tokens, self.gate = tokens, gate

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        if self.tokens <= 0:
            assert self.gate.wait(40), "nobody let the model go"
        self.tokens -= 1
        return scores


@pytest.fixture
def hold() -> Iterator[Hold]:
    """The plugin :class:`Hold`."""
    plugin = Hold()
    yield plugin
    plugin.let_go()


@pytest.fixture
def held_chat(new_chat: Callable[..., Chat], hold: Hold) -> Chat:
    """The tiny model, with the plugins :class:`Slow` and :class:`Hold`."""
    return new_chat(plugins=[Slow(), hold])
