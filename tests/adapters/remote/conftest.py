"""Servers to ask: one of ours with the tiny model, and stand-ins for others, which say what a test tells them."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from waiting import join, wait_until

from chatplan import Chat, hookimpl
from chatplan.adapters.remote import remote_chat, run


class Fields:
    """A plugin that only sends: the work of these fields is done on the server."""

    name = "fields"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"slow": float, "fail": bool, "force": list[int]}


@pytest.fixture(scope="session")
def direct(slow_chat: Chat) -> Chat:
    """The tiny model, here."""
    return slow_chat


@pytest.fixture(scope="session")
def tiny_server(serve: Callable[..., Any], direct: Chat) -> Iterator[Any]:
    """The same behind HTTP."""
    with serve(direct, keep_alive_seconds=0.1) as server:
        yield server


@pytest.fixture(scope="session")
def remote(tiny_server: Any) -> Iterator[Chat]:
    """The same through the engine."""
    chat = remote_chat(tiny_server.url, plugins=[Fields()], timeout=90)
    yield chat
    chat.close()


# --- stand-ins --------------------------------------------------------------------------------------------------------

Reply = tuple[int, Any]  # a status, and a body: an object, a text, or a list of events


def completion(**choice: Any) -> dict[str, Any]:
    """An answer of one choice."""
    message = {"role": "assistant", "content": "Paris."}
    return {
        "id": "chatcmpl-theirs",
        "object": "chat.completion",
        "created": 1,
        "model": "stand-in",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def event(delta: Any = None, **more: Any) -> dict[str, Any]:
    """A chunk of one choice."""
    choice = {"index": 0, "delta": delta or {}, **more}
    identity = {"id": "chatcmpl-theirs", "object": "chat.completion.chunk", "created": 1, "model": "stand-in"}
    return {**identity, "choices": [choice]}


STREAM = [event({"role": "assistant", "content": "Pa"}), event({"content": "ris."}), event(finish_reason="stop")]


class Peer:
    """A server that answers GET by a table of paths, and each POST by the next of its replies, the last one for ever.

    Attributes:
        got: the bodies of requests, with their headers.
        replies: what is answered; a callable gets the body.
        headers: sent with each reply.
        pause: seconds before a reply, and between events.
        held_after: so many events are sent, none for a reply that is none; the rest once ``go`` is set.
        most: how many requests were under way at once.
    """

    def __init__(self) -> None:
        self.url = ""
        self.loop: Any = None
        self.server: Any = None
        self.reset()

    def reset(self) -> None:
        """As if nothing had been said or asked."""
        self.pages: dict[str, Any] = {"/v1/models": {"data": [{"id": "stand-in", "owned_by": "someone"}]}}
        self.replies: list[Any] = [(200, completion())]
        self.headers: dict[str, str] = {}
        self.pause = 0.0
        self.held_after: int | None = None
        self.go = threading.Event()
        self.running = self.most = 0
        self.got: list[tuple[dict[str, Any], dict[str, str]]] = []

    def kill(self) -> None:
        """Break all connections, and take no further ones."""
        self.server.should_exit = True
        for listener in self.server.servers:
            self.loop.call_soon_threadsafe(listener.close)
        for connection in list(self.server.server_state.connections):
            self.loop.call_soon_threadsafe(connection.transport.abort)

    @property
    def body(self) -> dict[str, Any]:
        """The last one."""
        return self.got[-1][0]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self._answer(scope, receive, send)
        finally:
            self.running -= 1

    async def _held(self, at: int) -> None:
        if at == self.held_after:
            go, until = self.go, asyncio.get_running_loop().time() + 60
            while not go.is_set() and asyncio.get_running_loop().time() < until:
                await asyncio.sleep(0.005)

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        self.loop, body = asyncio.get_running_loop(), b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if scope["method"] == "GET":
            status, content = (200, self.pages[scope["path"]]) if scope["path"] in self.pages else (404, {})
        else:
            data = json.loads(body)
            self.got.append((data, {name.decode(): value.decode() for name, value in scope["headers"]}))
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            status, content = reply(data) if callable(reply) else reply
        await self._held(0)
        await asyncio.sleep(0 if self.go.is_set() else self.pause)
        kinds: dict[type, str] = {list: "text/event-stream", str: "text/plain"}
        headers = {"content-type": kinds.get(type(content), "application/json"), **self.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        if isinstance(content, list):
            for at, each in enumerate(content):
                if at:
                    await self._held(at)
                text = f"data: {each if isinstance(each, str) else json.dumps(each)}\n\n"
                await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
                await asyncio.sleep(0 if self.go.is_set() else self.pause)
            content = ""
        text = content if isinstance(content, str) else json.dumps(content)
        await send({"type": "http.response.body", "body": text.encode()})


@contextmanager
def running(peer: Peer) -> Iterator[Peer]:
    """The peer on a port of the loopback interface."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(peer, lifespan="off", log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    peer.server = server
    peer.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        wait_until(lambda: server.started or not thread.is_alive(), what="the stand-in starts")
        yield peer
    finally:
        peer.go.set()
        server.should_exit = True
        join(thread)


@pytest.fixture(scope="session")
def start_peer() -> Callable[..., Any]:
    """A stand-in inside a ``with`` block."""
    return lambda: running(Peer())


@pytest.fixture
def new_peer(start_peer: Callable[..., Any]) -> Iterator[Callable[[], Peer]]:
    """Starts stand-ins, which end with the test."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(start_peer())


@pytest.fixture(scope="session")
def shared_peer(start_peer: Callable[..., Any]) -> Iterator[Peer]:
    """A stand-in that is not killed."""
    with start_peer() as peer:
        yield peer


@pytest.fixture
def peer(shared_peer: Peer) -> Peer:
    """The same, as if new."""
    shared_peer.go.set()  # what a test before has left
    wait_until(lambda: not shared_peer.running)
    shared_peer.reset()
    return shared_peer


@pytest.fixture
def connect() -> Iterator[Callable[..., Any]]:
    """A chat with stand-ins: ``connect(peer, other, server="vllm")``."""
    with ExitStack() as stack:

        def make(*peers: Peer | str, **options: Any) -> Chat:
            urls = [peer if isinstance(peer, str) else peer.url for peer in peers]
            chat = remote_chat(urls, **{"server": "openai", "model": "stand-in", "timeout": 60, **options})
            stack.callback(chat.close)
            return chat

        yield make


class _NoTime(float):
    """A factor that notes what it is for, and makes it nothing."""

    def __new__(cls, noted: list[float]) -> _NoTime:
        return super().__new__(cls, 0.0)

    def __init__(self, noted: list[float]) -> None:
        self.noted = noted

    def __rmul__(self, seconds: float) -> float:
        self.noted.append(seconds)
        return 0.0


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds between tries, which take none."""
    noted: list[float] = []
    monkeypatch.setattr(run, "random", SimpleNamespace(uniform=lambda least, most: _NoTime(noted)))
    return noted
