"""What a client sees of replicas that die. A list of messages stands for each replica that Ray would choose."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.types import Message

from chatplan.adapters.ray_serve.call import Call
from chatplan.adapters.ray_serve.relay import Relay
from chatplan.errors import OverloadedError

DIES = ActorDiedError()
FULL = "no room"
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
        self.cancelled = self.waits = False

    async def _iterate(self, parts: list[Any]) -> AsyncIterator[list[Message]]:
        if parts == [FULL]:
            await asyncio.sleep(60)
        yield []
        for part in parts:
            if part is None:
                self.waits = True
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


def relayed(*answers: list[Any], retries: int = 2, seconds: float = 60) -> list[Message]:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    relay = Relay(cast("Any", Replicas(*answers)), Call({"path": "/"}, [], b""), retries, seconds)
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
    [
        (BackPressureError(3, 2), 503, "overloaded"),
        (FAILED, 500, "internal_error"),
        (DeploymentUnavailableError(DeploymentID("a", "b")), 503, "not_ready"),
    ],
)
def test_other_failures_are_told_in_the_servers_shape(error: Exception, status: int, code: str) -> None:
    sent = relayed([error])
    assert sent[0]["status"] == status
    assert json.loads(text(sent))["error"]["code"] == code
    assert "trace" not in text(sent)


def test_no_room_in_time_is_said_with_when_to_come_back() -> None:
    sent = relayed([FULL], seconds=0.05)
    assert sent[0]["status"] == 503
    assert json.loads(text(sent))["error"]["code"] == "overloaded"
    assert (b"retry-after", b"5") in sent[0]["headers"]


def test_a_full_queue_is_said_with_when_to_come_back() -> None:
    assert (b"retry-after", b"2") in relayed([BackPressureError(3, 2)])[0]["headers"]


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_so_many_further_replicas_are_asked(retries: int) -> None:
    replicas = Replicas(*[[DIES]] * 5)

    async def send(message: Message) -> None: ...

    relay = Relay(cast("Any", replicas), Call({"path": "/"}, [], b""), retries, 60)
    asyncio.run(relay({"type": "http"}, cast("Any", None), send))
    assert len(replicas.asked) == retries + 1
    assert all(answer.cancelled for answer in replicas.asked)


def test_a_call_that_came_to_its_end_is_not_cancelled() -> None:
    replicas = Replicas(WHOLE)

    async def send(message: Message) -> None: ...

    asyncio.run(Relay(cast("Any", replicas), Call({"path": "/"}, [], b""), 2, 60)(
        {"type": "http"}, cast("Any", None), send
    ))  # fmt: skip
    assert [answer.cancelled for answer in replicas.asked] == [False]


def test_a_failure_after_comments_is_an_event() -> None:
    sent = relayed([START, COMMENT, FAILED])
    comment, error, done, _ = text(sent).split("\n\n")
    assert (comment, done) == (": keep-alive", "data: [DONE]")
    assert json.loads(error.removeprefix("data: "))["error"]["code"] == "internal_error"


def test_an_error_event_begins_an_answer() -> None:
    failed = event({"error": {"code": "engine_error"}})
    sent = relayed([START, ROLE, failed, DIES])
    assert text(sent).startswith(text([ROLE, failed]))


def test_a_refusal_in_parts_is_one_event() -> None:
    parts: list[Message] = [BUSY[0], {"type": "http.response.body", "body": b'{"a":', "more_body": True},
                            {"type": "http.response.body", "body": b"1}"}]  # fmt: skip
    assert text(relayed([START, COMMENT, DIES], parts)) == ': keep-alive\n\ndata: {"a":1}\n\ndata: [DONE]\n\n'


def test_a_client_that_leaves_cancels_its_call() -> None:
    replicas = Replicas([START, None])

    async def send(message: Message) -> None: ...

    async def go() -> None:
        relay = Relay(cast("Any", replicas), Call({"path": "/"}, [], b""), 2, 60)
        running = asyncio.create_task(relay({"type": "http"}, cast("Any", None), send))
        while not (replicas.asked and replicas.asked[0].waits):
            await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(go())
    assert [answer.cancelled for answer in replicas.asked] == [True]
