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

import pytest
import torch
from transformers import LogitsProcessor

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

    def wait_idle(self, seconds: float = 10) -> None:
        """Until no request is under way."""
        until = time.monotonic() + seconds
        while (self.service.accepted or self.service.under_way) and time.monotonic() < until:
            time.sleep(0.01)
        assert not self.service.accepted
        assert not self.service.under_way


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
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield Running(server, listener.getsockname()[1])
    finally:
        server.handle_exit(signal.SIGTERM, None)
        thread.join()


@pytest.fixture(scope="session")
def serve() -> Serve:
    """Serves a chat inside a ``with`` block: ``with serve(chat, max_queue=3) as server: server.url``."""
    return running


@pytest.fixture(scope="session")
def server_url(pipe: ChatPipeline) -> Iterator[str]:
    """The address of a server with the real model."""
    with running(pipe.chat) as server:
        yield server.url


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
