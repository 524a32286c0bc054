"""What goes wrong at a TGI server is one of our errors, and what passes is tried again."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from chatplan import (
    AuthenticationError,
    Chat,
    ChatplanError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    OverloadedError,
    PluginError,
    RequestError,
    connect,
)
from chatplan.adapters.tgi import tgi_chat
from chatplan.adapters.tgi.chat import server_info

if TYPE_CHECKING:
    from tests.adapters.tgi.conftest import StandIn

USER = [{"role": "user", "content": "Hi"}]
CLIENT = "text-generation" if find_spec("text_generation") else "http"
BUSY = {"error": "Model is overloaded", "error_type": "overloaded"}


@pytest.fixture(scope="module")
def chat(server: StandIn, model_path: str) -> Iterator[Chat]:
    made = tgi_chat(server.url, model_path, client=CLIENT, temperature=0, retries=1)
    yield made
    made.close()


ANSWERS: dict[str, tuple[Callable[[], Response], type[ChatplanError], str | None]] = {
    "validation": (
        lambda: JSONResponse({"error": "`top_p` must be > 0.0", "error_type": "validation"}, 422),
        RequestError,
        "top_p",
    ),
    "length": (
        lambda: JSONResponse(
            {"error": "`inputs` tokens + `max_new_tokens` must be <= 10", "error_type": "validation"}, 422
        ),
        ContextLengthError,
        "messages",
    ),
    "plain text": (lambda: PlainTextResponse("Failed to deserialize the JSON body", 422), RequestError, None),
    "generation": (lambda: JSONResponse({"error": "it broke", "error_type": "generation"}, 424), EngineError, None),
    "no credential": (lambda: Response(status_code=401), AuthenticationError, None),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_error_is_ours_and_final(chat: Chat, tgi: StandIn, name: str) -> None:
    answer, kind, param = ANSWERS[name]
    tgi.answers.append(answer)
    with pytest.raises(kind) as caught:
        chat(USER, max_tokens=2)
    assert type(caught.value) is kind
    assert caught.value.param == param
    assert "\n" not in str(caught.value)
    assert len(tgi.sent) == 1


BUSY_ANSWERS: list[Callable[[], Response]] = [
    lambda: JSONResponse(BUSY, 429),
    lambda: JSONResponse({"error": "no healthy upstream"}, 503),
    lambda: PlainTextResponse("Bad gateway", 502),
]


@pytest.mark.parametrize("answer", BUSY_ANSWERS)
def test_busy_server_is_asked_again(chat: Chat, tgi: StandIn, answer: Callable[[], Response]) -> None:
    tgi.answers.append(answer)
    assert chat(USER, max_tokens=2).usage.completion_tokens == 2
    assert len(tgi.sent) == 2


def test_server_that_stays_busy_is_an_error(chat: Chat, tgi: StandIn) -> None:
    tgi.answers += [BUSY_ANSWERS[0]] * 5
    with pytest.raises(OverloadedError):
        chat(USER, max_tokens=2)
    assert len(tgi.sent) == 2


def test_retry_after_is_heeded(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, client="http", temperature=0)
    tgi.answers.append(lambda: JSONResponse(BUSY, 429, {"Retry-After": "1"}))
    began = time.monotonic()
    chat(USER, max_tokens=1)
    assert time.monotonic() - began >= 1
    chat.close()


def test_error_in_mid_stream_is_raised_where_the_reader_is(chat: Chat, tgi: StandIn) -> None:
    tgi.break_after = 2
    read: list[Any] = []
    with pytest.raises(EngineError, match="Request failed"):
        read.extend(chat(USER, stream=True, max_tokens=6))
    assert len(read) >= 2
    assert len(tgi.sent) == 1  # what was delivered is not asked for again


def test_stream_that_just_ends_is_an_error(chat: Chat, tgi: StandIn) -> None:
    event = {"index": 1, "token": {"id": 5, "text": "a", "logprob": -1.0, "special": False}, "top_tokens": []}
    lines = ["data:" + json.dumps({**event, "generated_text": None, "details": None}) + "\n\n"]
    tgi.answers.append(lambda: StreamingResponse(iter(lines), media_type="text/event-stream"))
    with pytest.raises(EngineError, match="ended before"):
        chat(USER, max_tokens=6)


def test_time_limit_holds(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, timeout=1.0, temperature=0)
    tgi.pause = 0.5
    with pytest.raises(DeadlineError):
        chat(USER, max_tokens=10)
    chat.close()


def test_one_of_a_batch_may_fail(chat: Chat, tgi: StandIn) -> None:
    tgi.answers.append(ANSWERS["generation"][0])
    with pytest.raises(EngineError):
        chat([{"messages": USER, "max_tokens": 2}] * 2)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_server_that_is_not_there(model_path: str) -> None:
    with pytest.raises(OverloadedError, match="cannot be reached"):
        tgi_chat(f"http://127.0.0.1:{free_port()}", model_path)


def test_server_that_went_away(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, client=CLIENT, retries=0)
    engine: Any = chat.engine
    engine.client.url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(OverloadedError, match="cannot be reached"):
        chat(USER, max_tokens=2)
    chat.close()


def test_closing_ends_what_is_under_way(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, client=CLIENT, temperature=0)
    tgi.pause = 0.3
    stream = chat(USER, stream=True, max_tokens=12)
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    chat.close()
    with pytest.raises(EngineError, match="closed"):
        list(stream)
    with pytest.raises(EngineError, match="closed"):
        list(chat(USER, stream=True, max_tokens=2))
    chat.close()


def test_request_that_closing_comes_before_is_an_error(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, client=CLIENT)
    engine: Any = chat.engine
    engine._thread.submit(asyncio.sleep(0)).result()
    engine._thread.call(lambda: time.sleep(0.3))
    stream = chat(USER, stream=True, max_tokens=2)
    chat.close()
    with pytest.raises(EngineError, match="closed"):
        list(stream)


def test_credential_is_checked_at_the_start(tgi: StandIn, model_path: str) -> None:
    tgi.secret = "mine"
    with pytest.raises(AuthenticationError):
        tgi_chat(tgi.url, model_path, api_key="yours")
    chat = connect(f"{tgi.url}/v1/", tokenizer=model_path, api_key="mine")
    assert chat.engine.name == "tgi"
    assert chat(USER, max_tokens=1).usage.completion_tokens == 1
    chat.close()


def test_lines_end_where_event_streams_end_them(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, client="http")
    token = {"id": 5, "text": "a\u2028b\x85", "logprob": -1.0, "special": False}
    event = {"index": 1, "token": token, "top_tokens": [], "generated_text": "a\u2028b\x85"}
    details = {"finish_reason": "length", "generated_tokens": 1, "seed": None}
    line = "data:" + json.dumps({**event, "details": details}, ensure_ascii=False) + "\r\n\r\n"
    tgi.answers.append(lambda: StreamingResponse(iter([line]), media_type="text/event-stream"))
    assert chat(USER, max_tokens=1).choices[0].finish_reason == "length"
    chat.close()


def test_proxy_may_hide_info(tgi: StandIn, model_path: str) -> None:
    tgi.info = {}
    assert server_info(tgi.url, {}, 5) == {}
    with pytest.raises(EngineError, match="tokenizer"):
        tgi_chat(tgi.url)


def test_settings_that_make_no_sense(tgi: StandIn, model_path: str) -> None:
    with pytest.raises(PluginError, match="logprobs_mode"):
        tgi_chat(tgi.url, model_path, logprobs_mode="raw")
    with pytest.raises(EngineError, match="no client"):
        tgi_chat(tgi.url, model_path, client="curl")
