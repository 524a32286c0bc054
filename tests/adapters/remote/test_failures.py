"""What goes wrong at servers: their errors in our words, other servers, waiting, deadlines, and leaving."""

from __future__ import annotations

import asyncio
import email.utils
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

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
    slow.pause = 1.0
    chat = connect(slow, quick)
    waiting = threading.Thread(target=lambda: [chat(HI), chat(HI)])
    waiting.start()
    while not slow.got:
        time.sleep(0.01)
    for _ in range(6):
        chat(HI)
    assert len(slow.got) == 1
    assert chat.engine.stats().running >= 1
    waiting.join()
    assert chat.engine.stats().running == 0


@pytest.mark.parametrize("status", [429, 502, 503])
def test_another_server_is_asked_at_once(connect: Callable[..., Any], new_peer: Callable[[], Any], status: int) -> None:
    full, free = new_peer(), new_peer()
    full.replies, full.headers = [(status, error("full"))], {"retry-after": "15"}
    chat = connect(full, free, max_retries=0)
    began = time.monotonic()
    for _ in range(6):
        chat(HI)
    assert time.monotonic() - began < 5
    assert (len(full.got), len(free.got)) == (1, 6)  # it rests as long as it said


def begun(chat: Chat, dying: Any, begin: Callable[[], Any]) -> list[Any]:
    """Begins requests, of which ``dying`` gets one or two, and kills it."""
    runs = [begin() for _ in range(2)]
    while not dying.got:
        time.sleep(0.01)
    time.sleep(0.3)
    dying.kill()
    return runs


def test_a_whole_answer_is_asked_for_again(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    dying, other = new_peer(), new_peer()
    dying.pause = 30
    chat = connect(dying, other, max_retries=0)
    with ThreadPoolExecutor() as threads:
        answers = begun(chat, dying, lambda: threads.submit(chat, HI))
        assert [answer.result().text for answer in answers] == ["Paris.", "Paris."]
    assert (len(dying.got), len(other.got)) == (1, 2)


def test_a_stream_that_began_is_not_begun_again(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    dying, other = new_peer(), new_peer()
    dying.pause, dying.replies = 0.1, [(200, [PIECE] * 99)]
    other.replies = [(200, [PIECE, LAST])]
    chat = connect(dying, other)
    streams = begun(chat, dying, lambda: chat.stream(HI))
    ends = []
    for stream in streams:
        try:
            ends.append("".join(chunk.choices[0].delta.content or "" for chunk in stream))
        except OverloadedError as error:
            ends.append(error.code)
    assert sorted(ends) == ["piece", "upstream_unreachable"]
    assert (len(dying.got), len(other.got)) == (1, 1)


def test_retries_wait_as_long_as_the_server_says(connect: Callable[..., Any], peer: Any) -> None:
    peer.replies = [(503, error("full")), (503, error("full")), (200, OK)]
    peer.headers = {"retry-after": "1"}
    began = time.monotonic()
    assert connect(peer)(HI).text == "ok"
    assert 2.0 <= time.monotonic() - began < 4.0
    assert len(peer.got) == 3
    ids = {headers["x-request-id"] for _, headers in peer.got}
    assert len(ids) == 1


def test_a_wait_that_is_too_long_is_left_to_the_caller(connect: Callable[..., Any], peer: Any) -> None:
    for wait in ("100", email.utils.formatdate(time.time() + 101, usegmt=True)):
        peer.replies, peer.headers = [(429, error("slow down"))], {"retry-after": wait}
        with pytest.raises(RateLimitError) as caught:
            connect(peer)(HI)
        assert 98 < caught.value.retry_after <= 101
    assert len(peer.got) == 2


def test_retries_end(connect: Callable[..., Any], peer: Any) -> None:
    peer.replies = [(503, error("full"))]
    with pytest.raises(OverloadedError):
        connect(peer, max_retries=1)(HI)
    assert len(peer.got) == 2


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_holds_for_the_whole_answer(connect: Callable[..., Any], peer: Any, stream: bool) -> None:
    peer.pause = 0.4
    peer.replies = [(200, [PIECE] * 20 if stream else OK)]
    if not stream:
        peer.pause = 5
    chat = connect(peer, timeout=1.0)
    began = time.monotonic()
    with pytest.raises(DeadlineError):
        read(chat) if stream else chat(HI)
    assert 0.8 < time.monotonic() - began < 3


def test_cancelling_stops_the_model(tiny_server: Any, remote: Chat) -> None:
    tiny_server.wait_idle()
    with remote.stream(HI, slow=0.05, max_tokens=800, ignore_eos=True) as stream:
        next(stream)
        next(stream)
    tiny_server.wait_idle(3)
    assert stream.run.error is None


def test_cancelling_a_task_stops_the_model(tiny_server: Any, remote: Chat) -> None:
    async def leave() -> None:
        task = asyncio.create_task(remote.acomplete(HI, slow=0.05, max_tokens=800, ignore_eos=True))
        while not tiny_server.service.under_way:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    tiny_server.wait_idle()
    asyncio.run(leave())
    tiny_server.wait_idle(3)


def test_closing_ends_what_is_under_way(connect: Callable[..., Any], peer: Any) -> None:
    peer.pause = 30
    chat = connect(peer)
    stream = chat.stream(HI)
    while not peer.got:
        time.sleep(0.01)
    chat.close()
    for late in (lambda: list(stream), lambda: read(chat)):
        with pytest.raises(EngineError) as caught:
            late()
        assert caught.value.code == "closed"
