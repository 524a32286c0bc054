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
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PluginError,
    RequestError,
    TooLargeError,
    connect,
)
from chatplan.adapters.tgi import engine, tgi_chat
from chatplan.adapters.tgi.chat import limits_of, root_of, sent_headers, server_info, settings_for
from chatplan.adapters.tgi.clients import HttpClient, PublishedClient, broken, lines_of, refusal
from chatplan.adapters.tgi.clients import connect as connect_client
from chatplan.adapters.tgi.errors import Refusal, Unreachable, passes, translated
from chatplan.adapters.tgi.parameters import Limits

if TYPE_CHECKING:
    from tests.adapters.tgi.conftest import StandIn

USER = [{"role": "user", "content": "Hi"}]
CLIENT = "text-generation" if find_spec("text_generation") else "http"
BUSY = {"error": "Model is overloaded", "error_type": "overloaded"}


@pytest.fixture(scope="module")
def chat(server: StandIn, checkpoint: str) -> Iterator[Chat]:
    made = tgi_chat(server.url, checkpoint, client=CLIENT, temperature=0, retries=1)
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


def test_retry_after_is_heeded(tgi: StandIn, checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[tuple[int, float | None]] = []

    def none(attempt: int, error: Exception) -> float:
        pauses.append((attempt, getattr(error, "retry_after", None)))
        return 0.0

    monkeypatch.setattr(engine, "pause", none)
    chat = tgi_chat(tgi.url, checkpoint, client="http", temperature=0, retries=2)
    tgi.answers.append(lambda: JSONResponse(BUSY, 429, {"Retry-After": "7"}))
    tgi.answers.append(lambda: JSONResponse(BUSY, 429))
    assert chat(USER, max_tokens=1).usage.completion_tokens == 1
    assert pauses == [(0, 7.0), (1, None)]
    tgi.answers += [lambda: JSONResponse(BUSY, 429, {"Retry-After": "9"})] * 3
    with pytest.raises(OverloadedError) as caught:
        chat(USER, max_tokens=1, best_of=2, temperature=1.0)
    assert (caught.value.code, caught.value.retry_after) == ("upstream_overloaded", 9.0)
    assert pauses[2:] == [(0, 9.0), (1, 9.0)]
    chat.close()


def test_pauses_are_those_of_the_server_or_grow() -> None:
    assert engine.pause(3, Refusal("", "overloaded", 429, 2.5)) == 2.5
    assert engine.pause(0, Refusal("", "overloaded", 429, 0.0)) == 0.0
    assert engine.pause(0, Refusal("", "overloaded", 429, 500.0)) == 30.0
    for attempt in range(6):
        found = {engine.pause(attempt, Unreachable()) for _ in range(50)}
        assert 0.125 * 2**attempt <= min(found) < max(found) <= 0.375 * 2**attempt
    assert engine.pause(20, Unreachable()) == 30.0


def test_what_passes() -> None:
    assert [status for status in (400, 422, 424, 429, 500, 502, 503, 504) if passes(Refusal("", "", status))] == [
        429, 502, 503,
    ]  # fmt: skip
    assert passes(Refusal("", "overloaded", 200))
    assert not passes(Refusal("", "generation", 424))
    assert passes(Unreachable("gone"))
    assert not passes(ValueError("x"))


REFUSALS: list[tuple[Exception, type[ChatplanError], str | None, str]] = [
    (Refusal("x", "overloaded", 200), OverloadedError, None, "upstream_overloaded"),
    (Refusal("x", "", 503), OverloadedError, None, "upstream_overloaded"),
    (Refusal("x", "validation", 0), RequestError, None, "invalid_value"),
    (Refusal("`nothing` and `truncate` and `top_p`", "", 400), RequestError, "truncate_prompt_tokens", "invalid_value"),
    (Refusal("`top_n_tokens`", "", 422), RequestError, "top_logprobs", "invalid_value"),
    (Refusal("`decoder_input_details`", "", 422), RequestError, "prompt_logprobs", "invalid_value"),
    (Refusal("`max_new_tokens` of all tokens", "", 422), RequestError, "max_tokens", "invalid_value"),
    (Refusal("`inputs` cannot be empty", "", 422), RequestError, "messages", "invalid_value"),
    (Refusal("`inputs` must have less than 9 tokens", "", 422), ContextLengthError, "messages",
     "context_length_exceeded"),
    *((Refusal(f"`{name}` is wrong", "", 422), RequestError, name, "invalid_value")
      for name in ("temperature", "top_k", "repetition_penalty", "frequency_penalty", "seed", "stop", "best_of")),
    (Refusal("x", "", 401), AuthenticationError, None, "invalid_credentials"),
    (Refusal("x", "", 403), PermissionDeniedError, None, "permission_denied"),
    (Refusal("x", "", 404), ModelNotFoundError, None, "model_not_found"),
    (Refusal("x", "", 413), TooLargeError, None, "request_too_large"),
    (Refusal("x", "", 504), DeadlineError, None, "deadline_exceeded"),
    (Refusal("x", "generation", 424), EngineError, None, "engine_error"),
    (Unreachable("x"), OverloadedError, None, "upstream_unreachable"),
    (TimeoutError(), DeadlineError, None, "deadline_exceeded"),
    (asyncio.TimeoutError(), DeadlineError, None, "deadline_exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "kind", "param", "code"), REFUSALS, ids=repr)
def test_every_error_in_our_words(error: Exception, kind: type[ChatplanError], param: str | None, code: str) -> None:
    found = translated(error)
    assert isinstance(found, ChatplanError)
    assert type(found) is kind
    assert (found.param, found.code) == (param, code)


def test_what_is_no_servers_doing_stays_as_it_is() -> None:
    error = KeyError("x")
    assert translated(error) is error
    assert str(Refusal("", "", 418)) == "HTTP 418"


def test_a_busy_server_is_asked_for_again_after_a_second() -> None:
    found: Any = translated(Refusal("x", "overloaded", 429))
    assert found.retry_after == 1.0


@pytest.mark.parametrize(
    ("event", "kind"),
    [({"error": "Request failed", "error_type": "generation"}, EngineError),
     ({"error": "Request failed", "error_type": "overloaded"}, OverloadedError)],
)  # fmt: skip
def test_error_in_mid_stream_is_raised_where_the_reader_is(
    chat: Chat, tgi: StandIn, event: dict[str, str], kind: type[Exception]
) -> None:
    if CLIENT != "http" and kind is OverloadedError:
        pytest.skip("the published client calls every error of a stream a generation error")
    tgi.break_after, tgi.breaks_with = 2, event
    read: list[Any] = []
    with pytest.raises(kind, match="Request failed"):
        read.extend(chat(USER, stream=True, max_tokens=6))
    assert len(read) >= 2
    assert len(tgi.sent) == 1  # what was delivered is not asked for again


def test_a_stream_that_breaks_before_its_first_token_is_begun_again(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client="http", temperature=0, retries=1)
    event = f"data:{json.dumps(BUSY)}\n\n"
    tgi.answers.append(lambda: StreamingResponse(iter([event]), media_type="text/event-stream"))
    assert chat(USER, max_tokens=2).usage.completion_tokens == 2
    assert len(tgi.sent) == 2
    chat.close()


def test_stream_that_just_ends_is_an_error(chat: Chat, tgi: StandIn) -> None:
    event = {"index": 1, "token": {"id": 5, "text": "a", "logprob": -1.0, "special": False}, "top_tokens": []}
    lines = ["data:" + json.dumps({**event, "generated_text": None, "details": None}) + "\n\n"]
    tgi.answers.append(lambda: StreamingResponse(iter(lines), media_type="text/event-stream"))
    with pytest.raises(EngineError, match="ended before"):
        chat(USER, max_tokens=6)


def test_time_limit_holds(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, timeout=50.0, temperature=0)
    found: Any = chat.engine
    assert (found.timeout, found.client.timeout) == (50.0, 50.0)
    found.timeout, tgi.held_after = 0.2, 0
    with pytest.raises(DeadlineError):
        chat(USER, max_tokens=10)
    chat.close()


def test_one_of_a_batch_may_fail(chat: Chat, tgi: StandIn) -> None:
    tgi.answers.append(ANSWERS["generation"][0])
    with pytest.raises(EngineError):
        chat([{"messages": USER, "max_tokens": 2}] * 2)
    assert len(tgi.sent) == 2  # the other one was not held up


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_server_that_is_not_there(checkpoint: str) -> None:
    with pytest.raises(OverloadedError, match="cannot be reached"):
        tgi_chat(f"http://127.0.0.1:{free_port()}", checkpoint)


def test_server_that_went_away(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client=CLIENT, retries=0)
    made: Any = chat.engine
    made.client.url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(OverloadedError, match="cannot be reached"):
        chat(USER, max_tokens=2)
    chat.close()


def test_closing_ends_what_is_under_way(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client=CLIENT, temperature=0)
    tgi.held_after = 1
    stream = chat(USER, stream=True, max_tokens=12)
    next(chunk for chunk in stream if chunk.choices[0].delta.content)
    chat.close()
    with pytest.raises(EngineError, match="closed"):
        list(stream)
    with pytest.raises(EngineError, match="closed"):
        list(chat(USER, stream=True, max_tokens=2))
    chat.close()


def test_request_that_closing_comes_before_is_an_error(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client=CLIENT)
    made: Any = chat.engine
    made._thread.submit(asyncio.sleep(0)).result(60)
    made._thread.call(lambda: time.sleep(0.3))
    stream = chat(USER, stream=True, max_tokens=2)
    chat.close()
    with pytest.raises(EngineError, match="closed"):
        list(stream)


def test_credential_is_checked_at_the_start(tgi: StandIn, checkpoint: str) -> None:
    tgi.secret = "mine"
    with pytest.raises(AuthenticationError):
        tgi_chat(tgi.url, checkpoint, api_key="yours")
    chat = connect(f"{tgi.url}/v1/", tokenizer=checkpoint, api_key="mine")
    assert chat.engine.name == "tgi"
    assert chat(USER, max_tokens=1).usage.completion_tokens == 1
    chat.close()


def test_lines_end_where_event_streams_end_them(tgi: StandIn, checkpoint: str) -> None:
    chat = tgi_chat(tgi.url, checkpoint, client="http")
    token = {"id": 5, "text": "a\u2028b\x85", "logprob": -1.0, "special": False}
    event = {"index": 1, "token": token, "top_tokens": [], "generated_text": "a\u2028b\x85"}
    details = {"finish_reason": "length", "generated_tokens": 1, "seed": None}
    line = "data:" + json.dumps({**event, "details": details}, ensure_ascii=False) + "\r\n\r\n"
    tgi.answers.append(lambda: StreamingResponse(iter([line]), media_type="text/event-stream"))
    assert chat(USER, max_tokens=1).choices[0].finish_reason == "length"
    chat.close()


def test_proxy_may_hide_info(tgi: StandIn, checkpoint: str) -> None:
    tgi.info = {}
    assert server_info(tgi.url, {}, 5) == {}
    with pytest.raises(EngineError, match="tokenizer"):
        tgi_chat(tgi.url)


def test_settings_that_make_no_sense(tgi: StandIn, checkpoint: str) -> None:
    with pytest.raises(PluginError, match="logprobs_mode"):
        tgi_chat(tgi.url, checkpoint, logprobs_mode="raw")
    with pytest.raises(EngineError, match="no client"):
        tgi_chat(tgi.url, checkpoint, client="curl")


# --- addresses, headers, limits ---------------------------------------------------------------------------------------


def test_what_info_may_answer(tgi: StandIn) -> None:
    assert server_info(f"{tgi.url}/", {}, 60)["max_best_of"] == 2
    tgi.secret = "mine"
    assert server_info(tgi.url, {"Authorization": "Bearer mine"}, 60)["max_best_of"] == 2
    with pytest.raises(AuthenticationError):
        server_info(tgi.url, {}, 60)
    tgi.secret, tgi.info = "", [1]  # type: ignore[assignment]
    assert server_info(tgi.url, {}, 60) == {}


def test_the_servers_own_name_is_taken_for_the_tokenizer(tgi: StandIn, checkpoint: str) -> None:
    tgi.info["model_id"] = checkpoint
    chat = tgi_chat(tgi.url, headers={"X-Team": "blue"})
    assert (chat.model.name, chat.model.tokenizer.eos_token) == (checkpoint, "<|im_end|>")
    chat.close()


def test_addresses_and_headers() -> None:
    assert [root_of(f"http://host{end}") for end in ("", "/", "/v1", "/v1/", "/v2")] == [
        *["http://host"] * 4, "http://host/v2",
    ]  # fmt: skip
    assert sent_headers("key", {"X-A": "b", "Authorization": "other"}) == {"X-A": "b", "Authorization": "Bearer key"}
    assert sent_headers(None, {"Authorization": "own"}) == {"Authorization": "own"}
    assert sent_headers(None, None) == {}


def test_limits_of_a_server() -> None:
    info = {"max_best_of": 5, "max_stop_sequences": 7, "max_total_tokens": 90, "max_input_tokens": 80}
    assert limits_of(info) == Limits(best_of=5, stops=7, tokens=90, inputs=80)
    assert limits_of({"max_input_length": 70}) == Limits(inputs=70)
    assert limits_of({"max_best_of": "5", "max_total_tokens": None}) == Limits(best_of=2, stops=4)


def test_the_smaller_context_counts() -> None:
    lengths = [settings_for(Limits(tokens=server), {"max_model_len": own} if own else {}).max_model_len
               for server, own in ((90, 80), (90, 100), (90, None), (None, 80), (None, None))]  # fmt: skip
    assert lengths == [80, 90, 90, 80, None]
    assert settings_for(Limits(), {}).logprobs_mode == "processed"


# --- the two clients --------------------------------------------------------------------------------------------------


def test_which_client(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"text_generation": False}
    monkeypatch.setattr("chatplan.adapters.tgi.clients.find_spec", lambda name: there[name] or None)
    assert isinstance(connect_client("auto", "http://host/", {"a": "b"}, 5), HttpClient)
    with pytest.raises(EngineError, match="not installed"):
        connect_client("text-generation", "http://host", {}, 5)
    there["text_generation"] = True
    for kind in ("auto", "text-generation"):
        made = connect_client(kind, "http://host/", {"a": "b"}, 5)
        assert isinstance(made, PublishedClient)
        assert (made.url, made.headers, made.timeout) == ("http://host", {"a": "b"}, 5)
    assert isinstance(connect_client("http", "http://host", {}, 5), HttpClient)


@pytest.mark.parametrize(("seconds", "connecting"), [(5.0, 5.0), (600.0, 10.0)])
def test_times_of_the_http_client(seconds: float, connecting: float) -> None:
    http = HttpClient("http://host", {"X-A": "b"}, seconds)._http
    assert (http.timeout.read, http.timeout.connect, http.headers["x-a"]) == (seconds, connecting, "b")


def test_an_answer_that_takes_too_long_is_over_but_a_server_may_come_back() -> None:
    import httpx

    assert isinstance(broken(httpx.ReadTimeout("")), asyncio.TimeoutError)
    for error in (httpx.ConnectTimeout(""), httpx.ConnectError("no"), httpx.ReadError("cut")):
        assert isinstance(broken(error), Unreachable)
    assert str(broken(httpx.ConnectTimeout(""))) == "ConnectTimeout"


@pytest.mark.parametrize("parts", [[b"a\r\nb\n\nc"], [b"a", b"\r", b"\nb", b"\n", b"\n", b"c"]])
def test_lines_come_together_from_parts(parts: list[bytes]) -> None:
    async def read() -> list[bytes]:
        async def given() -> Any:
            for part in parts:
                yield part

        return [line async for line in lines_of(given())]

    assert asyncio.run(read()) == [b"a", b"b", b"", b"c"]


def test_error_answers() -> None:
    found = refusal(503, b'{"error": "full", "error_type": "overloaded"}', {"retry-after": "12"})
    assert (str(found), found.kind, found.status, found.retry_after) == ("full", "overloaded", 503, 12.0)
    for body, text in ((b" plain \xff", "plain \ufffd"), (b"[1]", "[1]"), (b"{}", "{}"), (b"", "HTTP 500"),
                       (b"x" * 900, "x" * 500)):  # fmt: skip
        found = refusal(500, body, {"retry-after": "soon"})
        assert (str(found), found.kind, found.status, found.retry_after) == (text, "", 500, None)


def test_errors_of_the_published_client() -> None:
    pytest.importorskip("aiohttp")
    client = PublishedClient("http://host", {}, 5)
    kinds = {
        "ValidationError": ("validation", 422), "BadRequestError": ("validation", 400),
        "OverloadedError": ("overloaded", 429), "RateLimitExceededError": ("overloaded", 429),
        "ShardNotReadyError": ("overloaded", 503), "GenerationError": ("generation", 424),
        "IncompleteGenerationError": ("incomplete_generation", 500), "ShardTimeoutError": ("", 504),
        "NotFoundError": ("", 404), "UnknownError": ("", 503), "SomethingNew": ("", 500),
    }  # fmt: skip
    for name, wanted in kinds.items():
        found: Any = client._known(type(name, (Exception,), {"__module__": "text_generation.errors"})("says"))
        assert (str(found), found.kind, found.status) == ("says", *wanted)
    late = asyncio.TimeoutError()
    assert client._known(late) is late
    checked: Any = client._known(ValueError("`top_p` must\n be"))
    assert (str(checked), checked.kind, checked.status) == ("`top_p` must be", "validation", 422)
    odd: Any = client._known(KeyError("error"))
    assert (type(odd), odd.status) == (Refusal, 500)
    own = ZeroDivisionError()
    assert client._known(own) is own


def test_connection_errors_of_the_published_client() -> None:
    aiohttp = pytest.importorskip("aiohttp")
    client = PublishedClient("http://host", {}, 5)
    for error in (aiohttp.ClientConnectionError("no"), aiohttp.ClientPayloadError("cut")):
        assert isinstance(client._known(error), Unreachable)
    found: Any = client._known(aiohttp.ClientResponseError(None, (), status=502, message="bad"))
    assert (str(found), found.kind, found.status) == ("bad", "", 502)


def test_arguments_of_the_published_client() -> None:
    given = {"details": True, "best_of": 2, "decoder_input_details": True, "stop": ["a"], "top_k": 5}
    assert PublishedClient("http://host", {}, 5)._arguments(given) == {"stop_sequences": ["a"], "top_k": 5}
