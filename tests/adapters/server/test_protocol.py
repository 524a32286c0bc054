"""What surrounds a request: bodies, routes, ids, probes, and who may call from a browser."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from tokenizers.processors import TemplateProcessing
from waiting import wait_until

import chatplan
from chatplan import AuthenticationError, Chat, Engine, ModelInfo, OverloadedError, RequestError, hookimpl
from chatplan.adapters.server.replies import HttpError, UnexpectedError, error_response, status_of
from chatplan.engine import EngineStats
from chatplan.engine.generate import GenerateEngine
from chatplan.errors import (
    ChatplanError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    PluginError,
    RateLimitError,
    TooLargeError,
)
from chatplan.standin import stand_in

Ask = Callable[..., httpx.Response]
URL = "/v1/chat/completions"
JSON = {"Content-Type": "application/json"}


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["code"] == code
    return error


# --- bodies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'"text"',
        b'[{"role": "user", "content": "Hi"}]',
        b'{"messages": [{"role": "user", "content": "Hi"}], "temperature": NaN}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": "\xff"}',
        b'{"a":' * 100_000,
        b"[" * 100_000,
    ],
    ids=range(11),
)
def test_bodies_that_are_no_json_object(http: httpx.Client, body: bytes) -> None:
    refused(http.post(URL, content=body, headers=JSON), 400, "invalid_json")


@pytest.mark.parametrize(
    "kind",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "text/x+json",
        "application/jsonl",
    ],
)
def test_other_content_types(http: httpx.Client, kind: str | None) -> None:
    answer = http.post(URL, content=b"{}", headers={"Content-Type": kind} if kind else {})
    refused(answer, 415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json; charset=utf-8", "Application/JSON ;x=y", "application/vnd.chat+json"]
)
def test_json_by_another_name(http: httpx.Client, ask: Ask, kind: str) -> None:
    assert ask(http, headers={"Content-Type": kind}).status_code == 200


@pytest.fixture(scope="module")
def narrow(serve: Any, slow_chat: Chat) -> Iterator[Any]:
    with serve(slow_chat, max_body_bytes=10_000) as server:
        yield server


@pytest.mark.parametrize("path", [URL, f"{URL}/explain", "/tokenize", "/detokenize"])
@pytest.mark.parametrize("known", [True, False], ids=["stated", "streamed"])
def test_a_body_that_is_too_long(narrow: Any, known: bool, path: str) -> None:
    def pieces(length: int) -> Iterator[bytes]:
        for at in range(0, length, 1000):
            yield b" " * min(1000, length - at)

    def post(length: int) -> httpx.Response:
        with narrow.client() as client:
            answer: httpx.Response = client.post(path, content=b" " * length if known else pieces(length), headers=JSON)
            return answer

    for length in (10_001, 30_000):
        error = refused(post(length), 413, "request_too_large")
        assert "max_body_bytes=10000" in error["message"]
    refused(post(10_000), 400, "invalid_json")


def test_bodies_as_fastapi_refuses_them(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    with serve(slow_chat, validation_status=422) as server, server.client() as client:
        answer = ask(client, messages=[{"role": "user", "content": 3}])
        assert answer.status_code == 422
        (place,) = answer.json()["detail"]
        assert place["loc"] == ["body", "messages", 0, "content"]
        assert place["type"] == "invalid_value"
        assert "should be" in place["msg"]
        assert client.post(URL, content=b"{", headers=JSON).json()["detail"][0]["loc"] == ["body"]
        assert ask(client, model="x").status_code == 404


# --- routes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/", "/v2/chat/completions"])
def test_unknown_paths(http: httpx.Client, path: str) -> None:
    assert refused(http.get(path), 404, "not_found")["type"] == "NotFoundError"


def test_wrong_methods(http: httpx.Client) -> None:
    answer = http.get(URL)
    refused(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


def test_probes(http: httpx.Client) -> None:
    assert http.get("/health").json() == http.get("/live").json() == {"status": "ok"}
    assert http.get("/version").json() == {"version": chatplan.__version__}
    assert "text/html" in http.get("/docs").headers["content-type"]


def test_health_waits_for_the_model(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    loaded = threading.Event()

    def load() -> Chat:
        assert loaded.wait(60)
        return slow_chat

    with serve(load) as server, server.client() as client:
        for answer in (client.get("/health"), client.get("/v1/models"), ask(client)):
            refused(answer, 503, "not_ready")
            assert answer.headers["retry-after"] == "5"
        assert client.get("/metrics").status_code == 200
        assert client.get("/live").status_code == 200
        assert '"force":' not in client.get("/openapi.json").text
        loaded.set()
        wait_until(lambda: client.get("/health").status_code == 200)
        assert ask(client).status_code == 200
        assert '"force":' in client.get("/openapi.json").text


def test_a_dead_engine_is_not_healthy(serve: Any, new_chat: Any, ask: Ask) -> None:
    class Dead(GenerateEngine):
        def stats(self) -> EngineStats:
            raise RuntimeError("the thread is gone")

    class Mortuary:
        @hookimpl
        def engine(self, model: ModelInfo) -> Engine:
            return Dead(model)

    with serve(new_chat(plugins=[Mortuary()])) as server, server.client() as client:
        for answer in (client.get("/health"), ask(client)):
            refused(answer, 503, "engine_dead")
        assert client.get("/live").status_code == client.get("/metrics").status_code == 200


# --- ids --------------------------------------------------------------------------------------------------------------


def test_an_id_is_made_up(http: httpx.Client, ask: Ask) -> None:
    answer, other = ask(http), ask(http)
    assert answer.json()["id"] == f"chatcmpl-{answer.headers['x-request-id']}"
    assert answer.headers["x-request-id"] != other.headers["x-request-id"]


@pytest.mark.parametrize("stream", [False, True])
def test_the_header_names_the_request(http: httpx.Client, ask: Ask, stream: bool) -> None:
    answer = ask(http, headers={"X-Request-Id": "abc-1"}, stream=stream)
    assert answer.headers["x-request-id"] == "abc-1"
    assert '"chatcmpl-abc-1"' in answer.text


def test_the_body_names_the_request(http: httpx.Client, ask: Ask) -> None:
    answer = ask(http, request_id="abc-2")
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("abc-2", "chatcmpl-abc-2")
    assert ask(http, headers={"X-Request-Id": "abc-2"}, request_id="abc-2").status_code == 200


def test_header_and_body_must_agree(http: httpx.Client, ask: Ask) -> None:
    answer = ask(http, headers={"X-Request-Id": "one"}, request_id="two")
    assert refused(answer, 400, "invalid_value")["param"] == "request_id"
    assert answer.headers["x-request-id"] == "one"


def test_errors_have_the_id_too(http: httpx.Client, ask: Ask) -> None:
    assert ask(http, headers={"X-Request-Id": "bad-1"}, n=-1).headers["x-request-id"] == "bad-1"
    assert http.get("/nothing", headers={"X-Request-Id": "bad-2"}).headers["x-request-id"] == "bad-2"


def test_an_id_may_be_long(http: httpx.Client, ask: Ask) -> None:
    for value in ("x" * 200, "~", "a b"):
        assert ask(http, headers={"X-Request-Id": value}).headers["x-request-id"] == value
        assert ask(http, request_id=value).headers["x-request-id"] == value


@pytest.mark.parametrize("value", ["", "x" * 201, "é".encode("latin-1"), "a\tb"])
def test_headers_that_are_no_id(http: httpx.Client, ask: Ask, value: Any) -> None:
    answer = ask(http, headers={b"X-Request-Id": value if isinstance(value, bytes) else value.encode()})
    assert refused(answer, 400, "invalid_value")["param"] == "X-Request-Id"


@pytest.mark.parametrize("value", ["", "x" * 201, "é", "a\nb", 3])
def test_values_that_are_no_id(http: httpx.Client, ask: Ask, value: Any) -> None:
    assert refused(ask(http, request_id=value), 400, "invalid_value")["param"] == "request_id"


def test_an_id_under_way_is_taken(tiny_server: Any, http: httpx.Client, ask: Ask) -> None:
    with http.stream("POST", URL, json=slow_body(request_id="mine")) as stream:
        assert stream.status_code == 200
        error = refused(ask(http, request_id="mine"), 400, "duplicate_request_id")
        assert error["param"] == "request_id"
    tiny_server.wait_idle()
    assert ask(http, request_id="mine").status_code == 200


def slow_body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Hi"}]
    return {"messages": messages, "max_tokens": 900, "ignore_eos": True, "slow": 0.05, "stream": True, **fields}


# --- browsers ---------------------------------------------------------------------------------------------------------

ASK_FIRST = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}


def test_browsers_are_not_let_in_by_default(http: httpx.Client) -> None:
    assert http.options(URL, headers=ASK_FIRST).status_code == 405
    assert "access-control-allow-origin" not in http.get("/v1/models", headers=ASK_FIRST).headers


def test_browsers_of_an_origin(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    with (
        serve(slow_chat, cors_origins="https://page.example") as server,
        server.client() as client,
    ):
        asked = client.options(URL, headers={**ASK_FIRST, "Access-Control-Request-Headers": "content-type"})
        assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, "https://page.example")
        answer = ask(client, headers={"Origin": "https://page.example"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        exposed = {name.strip().lower() for name in answer.headers["access-control-expose-headers"].split(",")}
        assert exposed == {"x-request-id", "retry-after"}
        reading = client.options(URL, headers={**ASK_FIRST, "Access-Control-Request-Method": "GET"})
        assert reading.status_code == 200
        assert client.options(URL, headers={**ASK_FIRST, "Access-Control-Request-Method": "PUT"}).status_code == 400
        other = ask(client, headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_tokenize_a_prompt(http: httpx.Client, slow_chat: Chat) -> None:
    answer = http.post("/tokenize", json={"prompt": "Hi", "return_token_strs": True}).json()
    ids = slow_chat.model.tokenizer.encode("Hi")
    assert answer == {"count": 2, "max_model_len": 1024, "tokens": ids, "token_strs": ["H", "i"]}
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": "Hi"}


def test_tokenize_messages(http: httpx.Client, slow_chat: Chat) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    answer = http.post("/tokenize", json={"model": "tests/tiny", "messages": messages}).json()
    assert answer["tokens"] == list(slow_chat.plan(messages).prompt.token_ids)
    assert (answer["count"], answer["token_strs"]) == (len(answer["tokens"]), None)
    shorter = http.post("/tokenize", json={"messages": messages, "add_generation_prompt": False}).json()
    assert shorter["count"] < answer["count"]
    own = http.post("/tokenize", json={"messages": messages, "chat_template": "x{{ messages[0].content }}"}).json()
    assert http.post("/detokenize", json={"tokens": own["tokens"]}).json() == {"prompt": "xHi"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, "prompt"),
        ("/tokenize", {"prompt": 3}, "prompt"),
        ("/tokenize", {"prompt": "a", "nonsense": 1}, "nonsense"),
        ("/tokenize", {"messages": [{"role": "user"}]}, "messages[0].content"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens"),
        ("/detokenize", {"tokens": [10**9]}, "tokens"),
        ("/detokenize", {"tokens": ["a"]}, "tokens[0]"),
    ],
)
def test_tokens_that_are_refused(http: httpx.Client, path: str, body: dict[str, Any], param: str) -> None:
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_tokens_of_another_model(http: httpx.Client) -> None:
    refused(http.post("/tokenize", json={"prompt": "a", "model": "x"}), 404, "model_not_found")


def test_json_holds_any_character(http: httpx.Client) -> None:
    text = "naïve 日本 🎈"
    ids = http.post("/tokenize", content=json.dumps({"prompt": text}), headers=JSON).json()["tokens"]
    assert http.post("/detokenize", json={"tokens": ids}).json() == {"prompt": text}


def test_special_tokens_are_added_as_the_request_says(serve: Any, new_chat: Any) -> None:
    tokenizer = copy.deepcopy(stand_in().tokenizer)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.convert_tokens_to_ids("<|im_start|>"))]
    )
    messages = [{"role": "user", "content": "Hi"}]
    with serve(new_chat(tokenizer=tokenizer)) as server, server.client() as client:

        def count(**body: Any) -> int:
            answer = client.post("/tokenize", json=body)
            assert answer.json()["count"] == len(answer.json()["tokens"])
            return int(answer.json()["count"])

        assert [count(prompt="Hi", add_special_tokens=given) for given in (None, True, False)] == [3, 3, 2]
        assert count(prompt="Hi") == 3
        plain = count(messages=messages)
        assert count(messages=messages, add_special_tokens=False) == plain
        assert count(messages=messages, add_special_tokens=True) == plain + 1


def test_tokenize_takes_what_the_template_does(http: httpx.Client) -> None:
    user, cut = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes, b"}
    template = "{{ messages | length }}{% for tool in tools or [] %} {{ tool.function.name }}{% endfor %} {{ word }}"

    def text(**body: Any) -> str:
        answer = http.post("/tokenize", json=body)
        assert answer.status_code == 200, answer.text
        return str(http.post("/detokenize", json={"tokens": answer.json()["tokens"]}).json()["prompt"])

    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    kwargs = {"chat_template": template, "chat_template_kwargs": {"word": "end"}, "tools": [tool]}
    assert text(messages=[user], **kwargs) == "1 weather end"
    going_on = {"continue_final_message": True, "add_generation_prompt": False}
    assert text(messages=[user, cut], **going_on).endswith("Yes, b")
    assert not text(messages=[user, cut], add_generation_prompt=False).endswith("Yes, b")
    assert text(messages=[user]).endswith("assistant\n")


def test_all_of_the_context_is_for_the_messages(serve: Any, new_chat: Any) -> None:
    """Whatever the served defaults say of the answer's length, which is not asked for here."""
    chat = new_chat(defaults={"max_tokens": 40}, max_model_len=60)
    with serve(chat) as server, server.client() as client:
        answer = client.post("/tokenize", json={"messages": [{"role": "user", "content": "x" * 30}]})
        assert (answer.status_code, answer.json()["max_model_len"]) == (200, 60)
        assert answer.json()["count"] > 40


def test_the_ids_of_the_vocabulary(http: httpx.Client, slow_chat: Chat) -> None:
    width = slow_chat.model.logits_width
    assert http.post("/detokenize", json={"tokens": [0]}).status_code == 200
    assert http.post("/detokenize", json={"tokens": [width - 1]}).status_code == 200
    assert http.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    error = refused(http.post("/detokenize", json={"tokens": [0, width]}), 400, "invalid_value")
    assert f"token id {width} is not in the vocabulary of {width}" in error["message"]
    for name in ("tests/tiny", "tiny"):
        assert http.post("/detokenize", json={"tokens": [0], "model": name}).status_code == 200
    refused(http.post("/detokenize", json={"tokens": [0], "model": "x"}), 404, "model_not_found")


# --- errors as answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (RequestError("m", param="n"), 400, {}),
        (ModelNotFoundError("m"), 404, {}),
        (TooLargeError("m"), 413, {}),
        (DeadlineError("m"), 504, {}),
        (RateLimitError("m", retry_after=2.1), 429, {"retry-after": "3"}),
        (RateLimitError("m", retry_after=0.0), 429, {"retry-after": "1"}),
        (OverloadedError("m", retry_after=60), 503, {"retry-after": "60"}),
        (AuthenticationError("m", code="missing_credentials"), 401, {"www-authenticate": 'Bearer realm="chatplan"'}),
        (HttpError(405, "m", {"Allow": "GET"}), 405, {"allow": "GET"}),
        (HttpError(404, "m"), 404, {}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_has_its_status_and_headers(error: ChatplanError, status: int, headers: dict[str, str]) -> None:
    answer = error_response(error)
    assert (answer.status_code, status_of(error)) == (status, status)
    others = {"content-type": "application/json", "content-length": str(len(answer.body))}
    assert dict(answer.headers) == {**headers, **others}
    assert json.loads(bytes(answer.body)) == error.to_dict()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (EngineError("secret"), "the model failed"),
        (PluginError("secret"), "a plugin is wrong"),
        (UnexpectedError(), "the server failed"),
        (ChatplanError("secret"), "the server failed"),
    ],
    ids=range(4),
)
def test_failures_of_the_server_say_only_what_kind_they_are(error: ChatplanError, words: str) -> None:
    answer = error_response(error, 422)
    assert answer.status_code == 500
    message = json.loads(bytes(answer.body))["error"]["message"]
    assert message.startswith(words)
    assert "secret" not in message


def test_fastapis_status_is_for_bodies_alone() -> None:
    for error, status in ((RequestError("m"), 422), (ModelNotFoundError("m"), 404), (TooLargeError("m"), 413)):
        assert error_response(error, 422).status_code == status
    (place,) = json.loads(bytes(error_response(RequestError("m", param="a[2].b.3"), 422).body))["detail"]
    assert place == {"loc": ["body", "a", 2, "b", 3], "msg": "m", "type": "invalid_value"}


def test_what_nobody_foresaw_is_answered_too(serve: Any, new_chat: Any, ask: Ask) -> None:
    class Broken:
        @hookimpl
        def check_request(self) -> None:
            raise KeyboardError("secret")

    def prepare(app: Any) -> None:
        def broken() -> None:
            raise ValueError("secret")

        app.add_api_route("/broken", broken)

    with serve(new_chat(plugins=[Broken()]), prepare=prepare) as server, server.client() as client:
        for answer in (ask(client), ask(client, stream=True), client.get("/broken", headers={"X-Request-Id": "b"})):
            assert answer.status_code == 500
            assert "secret" not in answer.text
            assert answer.headers["x-request-id"]
        assert client.get("/live").status_code == 200


class KeyboardError(Exception):
    """No error that anybody knows."""
