"""One HTTP request on its way from a gateway to a replica, and the ASGI messages on their way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Scope

__all__ = ["Call", "respond"]

_GIVEN = ("method", "scheme", "path", "raw_path", "root_path", "query_string", "http_version", "client", "server")


@dataclass(frozen=True)
class Call:
    """A request with all of its body: what a replica needs, and what may be sent twice.

    Attributes:
        given: the entries of the ASGI scope that can be sent.
        headers: name and value, as ASGI has them.
        body: as it came.
        prefix: how its prompt begins, if requests are routed by that.
    """

    given: dict[str, Any]
    headers: list[tuple[bytes, bytes]]
    body: bytes
    prefix: str = ""

    @classmethod
    def of(cls, scope: Scope, headers: list[tuple[bytes, bytes]], body: bytes, prefix: str = "") -> Call:
        """The request that a server's ``scope`` describes."""
        return cls({name: scope[name] for name in _GIVEN if name in scope}, headers, body, prefix)

    @property
    def path(self) -> str:
        """The path below the one at which the application is mounted."""
        path: str = self.given["path"]
        return path.removeprefix(self.given.get("root_path", "")) or "/"

    def scope(self) -> Scope:
        """The ASGI scope, in the replica."""
        asgi = {"version": "3.0", "spec_version": "2.3"}
        return {"type": "http", "asgi": asgi, **self.given, "headers": list(self.headers), "state": {}}


async def respond(app: ASGIApp, call: Call) -> AsyncIterator[list[Message]]:
    """What ``app`` sends, as it comes: the messages that are there together, together.

    When nobody reads on, the app sees its client disconnect, and may end its work.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()
    unread = [{"type": "http.request", "body": call.body, "more_body": False}]

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.put_nowait(message)

    running = asyncio.ensure_future(app(call.scope(), receive, send))
    running.add_done_callback(lambda _: sent.put_nowait(None))
    try:
        message = await sent.get()
        while message is not None:
            together = [message]
            while not sent.empty() and (message := sent.get_nowait()) is not None:
                together.append(message)
            yield together
            message = message and await sent.get()
        await running
    finally:
        gone.set()
        await asyncio.wait([running])
