"""What goes wrong at servers: their errors in our words, other servers, waiting, deadlines, and leaving."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import wait_until

from chatplan import (
    AuthenticationError,
    Chat,
    ContextLengthError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    TooLargeError,
)
from chatplan.adapters.remote import pool, runner, server

HI = [{"role": "user", "content": "Hi"}]
OK = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}, "finish_reason": "stop"}]}
PIECE = {"choices": [{"index": 0, "delta": {"content": "pie"}}]}
LAST = {"choices": [{"index": 0, "delta": {"content": "ce"}, "finish_reason": "stop"}]}


def error(message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, **more}}


def free_url() -> str:
    """Where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- errors of one server ---------------------------------------------------------------------------------------------

FLAT = {"object": "error", "message": "too hot", "type": "BadRequestError", "param": "temperature", "code": 400}
DETAIL = {"detail": [{"loc": ["body", "temperature"], "msg": "too hot", "type": "x"}]}
LONG = error("This model's maximum context length is 64 tokens.", type="BadRequestError", code=400)
ERRORS: list[tuple[int, Any, type[Exception], str | None, str | None]] = [
    (400, error("too hot", param="temperature", code="invalid_value"), RequestError, "temperature", "invalid_value"),
    (400, FLAT, RequestError, "temperature", "invalid_value"),
    (422, DETAIL, RequestError, "temperature", "invalid_value"),
    (422, "Template error: too hot", RequestError, None, "invalid_value"),
    (422, {"error": "too hot", "error_type": "validation"}, RequestError, None, "invalid_value"),
    (400, LONG, ContextLengthError, None, "context_length_exceeded"),
    (400, error("x", type="exceed_context_size_error", code=400), ContextLengthError, None, "context_length_exceeded"),
    (401, "", AuthenticationError, None, "invalid_credentials"),
    (403, error("no"), PermissionDeniedError, None, "permission_denied"),
    (404, error("The model `x` does not exist.", type="NotFoundError"), ModelNotFoundError, "model", "model_not_found"),
    (404, {"detail": "Not Found"}, EngineError, None, "upstream_answer"),
    (413, "too long", TooLargeError, None, "request_too_large"),
    (429, error("slow down", code="insufficient_quota"), RateLimitError, None, "insufficient_quota"),
    (500, error("broke", code=500), EngineError, None, "engine_error"),
    (501, error("none of that", code=501), RequestError, None, "invalid_value"),
    (504, error("late"), DeadlineError, None, "deadline_exceeded"),
    (408, error("late"), DeadlineError, None, "deadline_exceeded"),
    (404, error("x", code="model_not_found"), ModelNotFoundError, "model", "model_not_found"),
    (404, error("x", param="model"), ModelNotFoundError, "model", "model_not_found"),
    (422, {"detail": [{"loc": ["body", "messages", 0, "content"], "msg": "x"}]}, RequestError, "messages.0.content",
     "invalid_value"),
    (400, error("x", param=0), RequestError, "0", "invalid_value"),
    (200, "<html>", EngineError, None, "upstream_answer"),
    (200, {"choices": []}, EngineError, None, "upstream_answer"),
    (200, {"choices": [{"index": 0, "message": {"content": "x"}}]}, EngineError, None, "upstream_answer"),
    (200, {"choices": [{"index": 0, "message": {"content": 3}, "finish_reason": "stop"}]}, EngineError, None,
     "upstream_answer"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "param", "code"), ERRORS)
def test_errors_in_our_words(
    connect: Callable[..., Any], peer: Any, status: int, body: Any, kind: Any, param: str | None, code: str | None
) -> None:
    peer.replies = [(status, body)]
    with pytest.raises(kind) as caught:
        connect(peer)(HI)
    assert type(caught.value) is kind
    assert (caught.value.param, caught.value.code) == (param, code)
    assert len(peer.got) == 1


def test_what_a_server_says_is_one_line(connect: Callable[..., Any], peer: Any) -> None:
    details = [{"loc": ["body", "temperature"], "msg": "too\nhot"}, {"loc": ["body", "n"], "msg": "too many"}]
    for body, text in (({"detail": details}, "too hot; too many"), (error("a\nb"), "a b"), ("x" * 3000, "x" * 2000)):
        peer.replies = [(422, body)]
        with pytest.raises(RequestError) as caught:
            connect(peer)(HI)
        assert str(caught.value).endswith(f"the server says: {text}")


def test_servers_that_rest_longer_with_each_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(server, "random", SimpleNamespace(uniform=lambda least, most: 1.0))
    one = server.Server("http://host", None, {}, 60)
    rests = []
    for _ in range(8):
        one.failed(None)
        rests.append(one.rests_until - now)
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
    one.answered()
    assert one.rests_until == 0.0
    for wait, rest in ((0.2, 0.5), (12.0, 12.0), (1000.0, 300.0)):
        one.answered()
        one.failed(wait)
        assert one.rests_until - now == rest


def test_which_server_is_next(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(pool, "time", SimpleNamespace(monotonic=lambda: now))
    one, two, three = (server.Server(f"http://host{number}", None, {}, 60) for number in range(3))
    servers = pool.Pool([one, two, three])
    assert [servers.choose([]) for _ in range(4)] == [two, three, one, two]
    one.running = two.running = 1
    assert [servers.choose([]) for _ in range(3)] == [three] * 3
    three.rests_until = 1000.5
    assert {servers.choose([]) for _ in range(3)} == {one, two}
    assert [servers.choose([one, two]) for _ in range(3)] == [three] * 3
    one.rests_until = two.rests_until = 1007.0
    assert [servers.choose([]) for _ in range(3)] == [three] * 3
    assert [servers.choose([one, two, three]) for _ in range(3)] == [three] * 3
    now = 1010.0  # all have rested
    three.running = 2
    assert {servers.choose([]) for _ in range(3)} == {one, two}


@pytest.mark.parametrize(("seconds", "connecting"), [(600.0, 5.0), (2.0, 2.0)])
def test_connecting_takes_no_longer_than_this(seconds: float, connecting: float) -> None:
    limits: Any = server.Server("http://host", None, {}, seconds)._client.timeout
    assert (limits.read, limits.connect) == (seconds, connecting)


def test_a_batch_has_so_many_requests_under_way(
    connect: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner._AT_ONCE == 64
    monkeypatch.setattr(runner, "_AT_ONCE", 3)
    peer.pause = 0.1
    answers = connect(peer)([{"messages": HI}] * 7)
    assert (len(answers), len(peer.got), peer.most) == (7, 7, 3)


def test_the_field_of_an_error_is_that_of_the_request(connect: Callable[..., Any], peer: Any) -> None:
    peer.replies = [(400, error("bad regex", param="structured_outputs.regex"))]
    with pytest.raises(RequestError) as caught:
        connect(peer, server="vllm", version="0.32")(HI, guided_regex="a(")
    assert caught.value.param == "guided_regex"


def test_errors_of_our_own_server(remote: Chat) -> None:
    with pytest.raises(RequestError) as bad:
        remote(HI, guided_regex="[0-9")
    assert (bad.value.param, bad.value.code) == ("guided_regex", "invalid_value")
    with pytest.raises(ContextLengthError) as long:
        remote(HI, max_tokens=5000)
    assert long.value.param == "max_tokens"
    with pytest.raises(ModelNotFoundError):
        remote(HI, model="another")
    with pytest.raises(EngineError) as broke:
        remote(HI, fail=True)
    assert broke.value.code == "engine_error"


# --- streams ----------------------------------------------------------------------------------------------------------


def read(chat: Chat) -> list[str]:
    with chat.stream(HI) as stream:
        return [chunk.choices[0].delta.content or "" for chunk in stream]


def test_a_stream_ends_with_its_last_event(connect: Callable[..., Any], peer: Any) -> None:
    peer.replies = [(200, [PIECE, LAST, "[DONE]"])]
    assert read(connect(peer)) == ["pie", "ce"]


STREAMS: list[tuple[list[Any], type[Exception], str]] = [
    ([PIECE], EngineError, "upstream_answer"),
    ([PIECE, "[DONE]"], EngineError, "upstream_answer"),
    ([PIECE, "{"], EngineError, "upstream_answer"),
    ([PIECE, "[]"], EngineError, "upstream_answer"),
    ([PIECE, error("broke", code=500)], EngineError, "engine_error"),
    ([PIECE, error("broke", type="InternalServerError", code="engine_error")], EngineError, "engine_error"),
    ([PIECE, error("full", type="ServiceUnavailableError", code="overloaded")], OverloadedError, "overloaded"),
    ([PIECE, error("late", type="TimeoutError", code="deadline_exceeded")], DeadlineError, "deadline_exceeded"),
    ([PIECE, error("x", type="BadRequestError")], RequestError, "invalid_value"),
    ([PIECE, error("no model", type="NotFoundError")], ModelNotFoundError, "model_not_found"),
    ([PIECE, error("x", type="RateLimitError")], RateLimitError, "rate_limit_exceeded"),
    ([PIECE, error("x", type="overloaded")], OverloadedError, "overloaded"),
    ([PIECE, error("x", error_type="validation")], RequestError, "invalid_value"),
    ([PIECE, error("x", code=429)], RateLimitError, "rate_limit_exceeded"),
]


@pytest.mark.parametrize(("events", "kind", "code"), STREAMS)
def test_a_stream_that_fails(connect: Callable[..., Any], peer: Any, events: Any, kind: Any, code: str) -> None:
    peer.replies = [(200, events)]
    stream = connect(peer).stream(HI)
    assert next(stream).choices[0].delta.content == "pie"
    with pytest.raises(kind) as caught:
        next(stream)
    assert (caught.value.code, len(peer.got)) == (code, 1)


def test_an_error_in_a_stream_of_our_own_server(remote: Chat) -> None:
    with pytest.raises(EngineError) as caught, remote.stream(HI, fail=True, slow=0.5) as stream:
        list(stream)
    assert caught.value.code == "engine_error"


# --- other servers ----------------------------------------------------------------------------------------------------


def test_a_dead_server_is_passed_over(connect: Callable[..., Any], peer: Any) -> None:
    peer.replies = [(200, OK)]
    chat = connect(free_url(), peer, free_url())
    assert [chat(HI).text for _ in range(8)] == ["ok"] * 8


def test_nobody_is_there(connect: Callable[..., Any]) -> None:
    with pytest.raises(OverloadedError) as caught:
        connect(free_url(), free_url(), max_retries=0)(HI)
    assert caught.value.code == "upstream_unreachable"


def test_servers_take_turns(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    peers = [new_peer(), new_peer(), new_peer()]
    chat = connect(*peers)
    for _ in range(9):
        chat(HI)
    assert [len(peer.got) for peer in peers] == [3, 3, 3]


def test_the_least_busy_server_is_asked(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    slow, quick = new_peer(), new_peer()
    slow.held_after = 0
    chat = connect(slow, quick)
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(chat, HI) for _ in range(2)]
        wait_until(lambda: slow.got and len(quick.got) == 1)
        wait_until(lambda: chat.engine.stats().running == 1)
        for _ in range(6):
            chat(HI)
        assert (len(slow.got), len(quick.got)) == (1, 7)
        slow.go.set()
        assert [answer.result(60).text for answer in answers] == ["Paris."] * 2
    assert chat.engine.stats().running == 0


@pytest.mark.parametrize("status", [429, 502, 503])
def test_another_server_is_asked_at_once(
    connect: Callable[..., Any], new_peer: Callable[[], Any], pauses: list[float], status: int
) -> None:
    full, free = new_peer(), new_peer()
    full.replies, full.headers = [(status, error("full"))], {"retry-after": "20"}
    chat = connect(full, free, max_retries=0)
    for _ in range(6):
        chat(HI)
    assert (len(full.got), len(free.got)) == (1, 6)  # it rests as long as it said
    assert not pauses


def test_a_whole_answer_is_asked_for_again(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    dying, other = new_peer(), new_peer()
    dying.held_after = 0
    chat = connect(dying, other, max_retries=0)
    with ThreadPoolExecutor() as threads:
        answers = [threads.submit(chat, HI) for _ in range(2)]
        wait_until(lambda: dying.got and other.got)
        dying.kill()
        assert [answer.result(60).text for answer in answers] == ["Paris.", "Paris."]
    assert (len(dying.got), len(other.got)) == (1, 2)


def test_a_stream_that_began_is_not_begun_again(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    dying, other = new_peer(), new_peer()
    dying.held_after, dying.replies = 1, [(200, [PIECE, LAST])]
    other.replies = [(200, [PIECE, LAST])]
    chat = connect(dying, other)
    streams = [chat.stream(HI) for _ in range(2)]
    assert [next(stream).choices[0].delta.content for stream in streams] == ["pie", "pie"]
    dying.kill()
    ends = []
    for stream in streams:
        try:
            ends.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
        except OverloadedError as error:
            ends.append(error.code)
    assert sorted(ends) == ["ce", "upstream_unreachable"]
    assert (len(dying.got), len(other.got)) == (1, 1)


# --- tries ------------------------------------------------------------------------------------------------------------


def test_retries_wait_as_long_as_the_server_says(connect: Callable[..., Any], peer: Any, pauses: list[float]) -> None:
    peer.replies = [(503, error("full")), (503, error("full")), (200, OK)]
    peer.headers = {"retry-after": "1.5"}
    assert connect(peer)(HI).text == "ok"
    assert pauses == [1.5, 1.5]
    assert len(peer.got) == 3
    ids = {headers["x-request-id"] for _, headers in peer.got}
    assert len(ids) == 1


def test_pauses_grow(connect: Callable[..., Any], peer: Any, pauses: list[float]) -> None:
    peer.replies = [(503, error("full"))]
    with pytest.raises(OverloadedError):
        connect(peer, max_retries=7)(HI)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert len(peer.got) == 8


def test_pauses_come_when_all_servers_were_asked(
    connect: Callable[..., Any], new_peer: Callable[[], Any], pauses: list[float]
) -> None:
    peers = [new_peer(), new_peer()]
    for peer in peers:
        peer.replies = [(503, error("full"))]
    with pytest.raises(OverloadedError):
        connect(*peers, max_retries=3)(HI)
    assert pauses == [0.25, 1.0]
    assert sorted(len(peer.got) for peer in peers) == [2, 3]


def test_a_pause_lasts(connect: Callable[..., Any], peer: Any) -> None:
    peer.replies = [(503, error("full")), (200, OK)]
    began = time.monotonic()
    assert connect(peer)(HI).text == "ok"
    assert time.monotonic() - began >= 0.25


def test_the_longest_wait_is_kept_and_a_longer_one_is_left_to_the_caller(
    connect: Callable[..., Any], peer: Any, pauses: list[float]
) -> None:
    peer.replies, peer.headers = [(503, error("full")), (200, OK)], {"retry-after": "20"}
    assert connect(peer)(HI).text == "ok"
    assert pauses == [20.0]
    peer.replies, peer.headers = [(503, error("full")), (200, OK)], {"retry-after": "20.5"}
    with pytest.raises(OverloadedError) as caught:
        connect(peer)(HI)
    assert caught.value.retry_after == 20.5
    assert pauses == [20.0]


WAITS: list[tuple[dict[str, str], float]] = [
    ({"retry-after": "7"}, 7.0),
    ({"retry-after-ms": "1500"}, 1.5),
    ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
    ({"retry-after": "soon"}, 1.0),
    ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 1.0),
    ({}, 1.0),
]


@pytest.mark.parametrize(("headers", "seconds"), WAITS)
def test_how_long_the_caller_should_wait(
    connect: Callable[..., Any], peer: Any, headers: dict[str, str], seconds: float
) -> None:
    peer.replies, peer.headers = [(429, error("slow down"))], headers
    with pytest.raises(RateLimitError) as caught:
        connect(peer, max_retries=0)(HI)
    assert caught.value.retry_after == seconds


def test_a_wait_that_is_too_long_is_left_to_the_caller(connect: Callable[..., Any], peer: Any) -> None:
    for wait in ("100", email.utils.formatdate(time.time() + 101, usegmt=True)):
        peer.replies, peer.headers = [(429, error("slow down"))], {"retry-after": wait}
        with pytest.raises(RateLimitError) as caught:
            connect(peer)(HI)
        assert 20 < caught.value.retry_after <= 101
    assert len(peer.got) == 2


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_holds_for_the_whole_answer(connect: Callable[..., Any], peer: Any, stream: bool) -> None:
    """Also where a part comes now and then."""
    peer.replies = [(200, [PIECE] * 400 if stream else OK)]
    peer.pause, peer.held_after = (0.05, None) if stream else (0.0, 0)
    chat = connect(peer, timeout=0.4)
    with pytest.raises(DeadlineError):
        read(chat) if stream else chat(HI)


def test_cancelling_stops_the_model(tiny_server: Any, remote: Chat) -> None:
    tiny_server.wait_idle(60)
    with remote.stream(HI, slow=0.05, max_tokens=800, ignore_eos=True) as stream:
        next(stream)
        next(stream)
    tiny_server.wait_idle(30)
    assert stream.run.error is None
    assert stream.run.tokens[1] < 400


def test_cancelling_a_task_stops_the_model(tiny_server: Any, remote: Chat) -> None:
    async def leave() -> None:
        task = asyncio.create_task(remote.acomplete(HI, slow=0.05, max_tokens=800, ignore_eos=True))
        await asyncio.to_thread(wait_until, lambda: tiny_server.service.under_way)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    tiny_server.wait_idle(60)
    asyncio.run(leave())
    tiny_server.wait_idle(30)


def test_closing_ends_what_is_under_way(connect: Callable[..., Any], peer: Any) -> None:
    peer.held_after = 0
    chat = connect(peer)
    stream = chat.stream(HI)
    wait_until(lambda: peer.got)
    chat.close()
    for late in (lambda: list(stream), lambda: read(chat)):
        with pytest.raises(EngineError) as caught:
            late()
        assert caught.value.code == "closed"
