"""What a client sees of replicas that die. A list of messages stands for each replica that Ray would choose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve.exceptions import BackPressureError
from starlette.types import Message

from chatplan.adapters.ray_serve.call import Call
from chatplan.adapters.ray_serve.relay import Relay
from chatplan.errors import OverloadedError

DIES = ActorDiedError()
FAILED: Exception = RayTaskError("f", "trace", KeyError("x"))  # type: ignore[no-untyped-call]
SSE = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-request-id", b"a")]
START: Message = {"type": "http.response.start", "status": 200, "headers": SSE}
CHUNK = {"id": "a", "object": "chat.completion.chunk", "created": 1, "model": "m"}


def event(data: Any, more: bool = True) -> Message:
    text = data if isinstance(data, str) else f"data: {json.dumps(data)}\n\n"
    return {"type": "http.response.body", "body": text.encode(), "more_body": more}


def says(**delta: Any) -> Message:
    return event({**CHUNK, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


ROLE, COMMENT = says(role="assistant", content=""), event(": keep-alive\n\n")
END = [event("data: [DONE]\n\n"), event("", more=False)]
WHOLE: list[Message] = [
    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]},
    {"type": "http.response.body", "body": b"{}"},
]
BUSY: list[Message] = [
    {"type": "http.response.start", "status": 503, "headers": [(b"content-type", b"application/json")]},
    {"type": "http.response.body", "body": b'{"error":{"code":"overloaded"}}'},
]


class Answer:
    """What Ray gives for a call."""

    def __init__(self, parts: list[Any]) -> None:
        self._parts = self._iterate(parts)
        self.cancelled = False

    async def _iterate(self, parts: list[Any]) -> AsyncIterator[list[Message]]:
        yield []
        for part in parts:
            if part is None:
                await asyncio.sleep(60)
            if isinstance(part, Exception):
                raise part
            yield [part]

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> list[Message]:
        return await anext(self._parts)

    def cancel(self) -> None:
        self.cancelled = True


class Replicas:
    def __init__(self, *answers: list[Any]) -> None:
        self.left, self.asked = list(answers), list[Answer]()

    def remote(self, call: Call) -> Answer:
        self.asked.append(Answer(self.left.pop(0)))
        return self.asked[-1]


def relayed(*answers: list[Any], retries: int = 2) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    relay = Relay(cast("Any", Replicas(*answers)), Call({"path": "/"}, [], b""), retries, 5)
    asyncio.run(relay({"type": "http"}, cast("Any", None), send))
    assert [message["type"] for message in sent].count("http.response.start") == 1
    return sent


def text(sent: list[Message]) -> str:
    return b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize("before", [[], [WHOLE[0]], [START], [START, ROLE], [START, COMMENT, ROLE, COMMENT]])
def test_another_replica_answers_when_nothing_was_said(before: list[Message]) -> None:
    comments = text([part for part in before if part == COMMENT])
    sent = relayed([*before, DIES], [START, ROLE, says(content="Hi"), *END])
    assert text(sent) == comments + text([ROLE, says(content="Hi"), *END])
    assert sent[0]["headers"] == SSE[:1]


def test_a_whole_answer_is_asked_for_again() -> None:
    assert relayed([DIES], [WHOLE[0], DIES], WHOLE) == WHOLE


def test_a_stream_that_began_ends_with_an_error() -> None:
    sent = relayed([START, ROLE, says(content="Hi"), DIES])
    assert text(sent).startswith(text([ROLE, says(content="Hi")]))
    error, done = text(sent).split("\n\n")[2:4]
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "replica_died"
    assert done == "data: [DONE]"
    assert not sent[-1]["more_body"]


def test_a_refusal_after_comments_is_an_event() -> None:
    sent = relayed([START, COMMENT, DIES], BUSY)
    assert text(sent) == ': keep-alive\n\ndata: {"error":{"code":"overloaded"}}\n\ndata: [DONE]\n\n'


def test_what_kills_replicas_is_not_sent_to_all() -> None:
    sent = relayed([DIES], [DIES], [DIES], retries=2)
    assert sent[0]["status"] == 503
    assert json.loads(text(sent))["error"]["code"] == "replica_died"


def test_a_body_that_breaks_off_breaks_the_connection() -> None:
    part: Message = {"type": "http.response.body", "body": b"{", "more_body": True}
    with pytest.raises(OverloadedError, match="died"):
        relayed([WHOLE[0], part, DIES])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(BackPressureError(3, 2), 503, "overloaded"), (FAILED, 500, "internal_error")],
)
def test_other_failures_are_told_in_the_servers_shape(error: Exception, status: int, code: str) -> None:
    sent = relayed([error])
    assert sent[0]["status"] == status
    assert json.loads(text(sent))["error"]["code"] == code
    assert "trace" not in text(sent)


def test_a_client_that_leaves_cancels_its_call() -> None:
    replicas = Replicas([START, None])

    async def send(message: Message) -> None: ...

    async def go() -> None:
        relay = Relay(cast("Any", replicas), Call({"path": "/"}, [], b""), 2, 5)
        running = asyncio.create_task(relay({"type": "http"}, cast("Any", None), send))
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(go())
    assert [answer.cancelled for answer in replicas.asked] == [True]
