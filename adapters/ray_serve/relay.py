"""Passes one answer on, from as many replicas as it takes until something of it is sent."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from chatplan.adapters.ray_serve.call import Call
from chatplan.adapters.server.record import has_token
from chatplan.adapters.server.replies import UnexpectedError, error_body, error_response
from chatplan.errors import ChatplanError, OverloadedError
from chatplan.response import ChatCompletionChunk

__all__ = ["Relay"]

log: logging.Logger = logging.getLogger("chatplan.ray")
_LOST = (RayActorError, ObjectLostError)
_DONE = b"data: [DONE]\n\n"
_STREAM = b"text/event-stream; charset=utf-8"


class Relay(Response):
    """The answer to ``call``. It has begun when its first token goes out; until then, when a replica dies, another one
    is asked, while comments keep a stream open."""

    def __init__(self, replicas: DeploymentHandle[Any], call: Call, retries: int, seconds: float) -> None:
        super().__init__()
        self._replicas, self._call = replicas, call
        self._tries, self._seconds = retries + 1, seconds
        self._held: list[Message] = []  # of an answer that has not begun
        self._refusal: bytes | None = None
        self._started = self._begun = self._is_stream = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while not await self._attempt(send):
                self._tries -= 1
                if self._begun or not self._tries:
                    raise OverloadedError("the replica died; ask again", code="replica_died")
        except BackPressureError:
            await self._fail(OverloadedError("too many requests wait already", retry_after=2), scope, receive, send)
        except DeploymentUnavailableError:
            await self._fail(OverloadedError("there are no replicas", code="not_ready"), scope, receive, send)
        except ChatplanError as error:
            await self._fail(error, scope, receive, send)
        except RayError:
            log.exception("%s failed", self._call.path)
            await self._fail(UnexpectedError(), scope, receive, send)

    async def _attempt(self, send: Send) -> bool:
        """Whether the answer came to its end; if not, the replica died."""
        answer: Any = self._replicas.remote(self._call)
        ended = False
        try:
            try:
                await asyncio.wait_for(anext(answer), self._seconds)
            except asyncio.TimeoutError:
                raise OverloadedError(f"no replica had room in {self._seconds:g} seconds", retry_after=5) from None
            async for messages in answer:
                for message in messages:
                    await self._pass_on(message, send)
            ended = True
        except _LOST:
            self._held, self._refusal = [], None
            return False
        finally:
            if not ended:
                answer.cancel()
        return True

    async def _pass_on(self, message: Message, send: Send) -> None:
        if message["type"] == "http.response.start":
            self._take_start(message)
        elif self._refusal is not None:
            refusal = self._refusal = self._refusal + message.get("body", b"")
            if not message.get("more_body"):
                await self._end(refusal, send)
        elif self._begun or not self._is_stream or _begins(message):
            await self._send_held(send)
            self._begun = True
            await send(message)
        elif message["body"].startswith(b":"):
            await self._send_held(send, events=False)
            await send(message)
        else:
            self._held.append(message)

    def _take_start(self, start: Message) -> None:
        """What another replica answers after comments have been sent goes on where they end."""
        if self._started:
            self._refusal = None if start["status"] == 200 else b""
            return
        # Ray's proxy adds the same id again.
        headers = [header for header in start["headers"] if header[0].lower() != b"x-request-id"]
        self._is_stream = (b"content-type", _STREAM) in headers
        self._held.append({**start, "headers": headers})

    async def _send_held(self, send: Send, events: bool = True) -> None:
        count = len(self._held) if events else int(not self._started)
        for message in self._held[:count]:
            await send(message)
        del self._held[:count]
        self._started = True

    async def _fail(self, error: ChatplanError, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._started:
            await error_response(error)(scope, receive, send)
        elif not self._is_stream:
            raise error  # the connection breaks, which is all that is left to say
        else:
            await self._end(json.dumps(error_body(error), ensure_ascii=False).encode(), send)

    async def _end(self, error: bytes, send: Send) -> None:
        """The end of a stream that broke, as a server writes it."""
        await send({"type": "http.response.body", "body": b"data: " + error + b"\n\n" + _DONE, "more_body": False})


def _begins(message: Message) -> bool:
    """Whether an event has more than a role, or is the last one."""
    body: bytes = message["body"]
    if not message.get("more_body"):
        return True
    if body.startswith(b":"):
        return False
    data = json.loads(body.removeprefix(b"data: ")) if body.startswith(b"data: {") else {"error": body}
    return "error" in data or has_token(ChatCompletionChunk.model_validate(data))
