"""``/v1/chat/completions`` and its plan: whole answers, streams byte for byte, and refusals."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable
from typing import Any, ClassVar

import httpx
import pytest

from chatplan import Chat, Engine, ModelInfo, fold, hookimpl
from chatplan.engine.generate import GenerateEngine
from chatplan.fields import GROUPS
from chatplan.response import ChatCompletionChunk

Ask = Callable[..., httpx.Response]
HI = [{"role": "user", "content": "Hi"}]


def events(text: str) -> list[str]:
    """The data of each event; every event is one line ``data: …`` and a blank one."""
    parts = text.split("\n\n")
    assert parts.pop() == ""
    assert all(part.startswith("data: ") and "\n" not in part for part in parts)
    return [part.removeprefix("data: ") for part in parts]


def chunks(text: str) -> list[dict[str, Any]]:
    *data, last = events(text)
    assert last == "[DONE]"
    return [json.loads(item) for item in data]


def test_a_whole_answer_is_that_of_the_chat(http: httpx.Client, ask: Ask, slow_chat: Chat) -> None:
    answer = ask(http, n=2, logprobs=True, top_logprobs=2, prompt_logprobs=1, request_id="r-1")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    fields: dict[str, Any] = {"max_tokens": 4, "temperature": 0, "ignore_eos": True, "n": 2, "logprobs": True}
    expected = slow_chat.complete(HI, **fields, top_logprobs=2, prompt_logprobs=1, request_id="r-1").to_dict()
    assert {**answer.json(), "created": 0} == json.loads(json.dumps({**expected, "created": 0}))


def test_a_stream_folds_to_the_whole_answer(http: httpx.Client, ask: Ask) -> None:
    whole = ask(http, n=2, seed=1, temperature=1, request_id="same").json()
    answer = ask(http, n=2, seed=1, temperature=1, request_id="same", stream=True,
                 stream_options={"include_usage": True})  # fmt: skip
    folded = fold([ChatCompletionChunk.model_validate(chunk) for chunk in chunks(answer.text)]).to_dict()
    assert {**json.loads(json.dumps(folded)), "created": 0} == {**whole, "created": 0}


def test_the_bytes_of_a_stream(http: httpx.Client, ask: Ask) -> None:
    answer = ask(http, stream=True, max_tokens=2)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    found = chunks(answer.text)
    assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in found} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in found}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in found[:-1]] == [None] * (len(found) - 1)
    assert found[-1]["choices"][0]["finish_reason"] == "length"
    assert not any("usage" in chunk for chunk in found)


def test_each_choice_of_a_stream_begins_with_its_role(http: httpx.Client, ask: Ask) -> None:
    found = chunks(ask(http, stream=True, n=3).text)
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["delta"]["role"]) for chunk in found[:3]] == [
        (0, "assistant"), (1, "assistant"), (2, "assistant")]  # fmt: skip


def test_usage_in_a_stream(http: httpx.Client, ask: Ask) -> None:
    last = chunks(ask(http, stream=True, stream_options={"include_usage": True}).text)[-1]
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 4)
    running = chunks(
        ask(http, stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True}).text
    )
    assert [chunk["usage"]["completion_tokens"] for chunk in running][-1] == 4
    assert all("usage" in chunk for chunk in running)


@pytest.mark.parametrize("tokens", [0, 2])
def test_comments_keep_a_silent_stream_alive(
    serve: Any, held_chat: Chat, hold: Any, stream: Callable[..., Any], tokens: int
) -> None:
    """Before the first token, so that the answer begins, and after others."""
    wanted = {"hold": tokens, "stream_options": {"include_usage": True}}
    with (
        serve(held_chat, keep_alive_seconds=0.05) as server,
        server.client() as client,
        stream(client, **wanted) as answer,
    ):
        assert answer.headers["x-accel-buffering"] == "no"
        lines = answer.iter_lines()
        if tokens:
            server.wait_generating()
            assert any('"content":' in line and '"role"' not in line for line in lines)
        assert ": keep-alive" in lines
        assert next(lines) == ""
        hold.let_go()
        rest = [line for line in lines if line and line != ": keep-alive"]
    assert rest[-1] == "data: [DONE]"
    assert json.loads(rest[-2].removeprefix("data: "))["usage"]["completion_tokens"] == 4


def test_a_stream_that_is_not_silent_has_no_comments(http: httpx.Client, ask: Ask) -> None:
    assert ": keep-alive" not in ask(http, stream=True, slow=0.05).text  # the default is 15 seconds


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temperature": -1}, "temperature", "invalid_value"),
        ({"nonsense": 1}, "nonsense", "unsupported_field"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content", "invalid_value"),
        ({"guided_regex": "(", "ignore_eos": None}, "guided_regex", "invalid_value"),
        ({"max_tokens": 5000}, "max_tokens", "context_length_exceeded"),
    ],
)
def test_refusals_come_before_the_stream(
    http: httpx.Client, ask: Ask, fields: dict[str, Any], param: str, code: str, stream: bool
) -> None:
    answer = ask(http, stream=stream, **fields)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "BadRequestError")
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model(http: httpx.Client, ask: Ask, stream: bool) -> None:
    answer = ask(http, model="gpt-4", stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_token_tells_nothing_of_the_inside(
    http: httpx.Client, ask: Ask, stream: bool
) -> None:
    answer = ask(http, stream=stream, fail=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")
    assert "secret" not in answer.text


def test_a_failure_in_a_stream_is_its_last_event_but_one(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    with serve(slow_chat, keep_alive_seconds=0.05) as server, server.client() as client:
        answer = ask(client, stream=True, fail=True, slow=1)
    assert answer.status_code == 200
    *_, error, done = events(answer.text.replace(": keep-alive\n\n", ""))
    assert json.loads(error)["error"]["code"] == "engine_error"
    assert done == "[DONE]"
    assert "secret" not in answer.text


def test_the_models_names(serve: Any, new_chat: Any, ask: Ask) -> None:
    with serve(new_chat(), served_model_name="tests/tiny,other") as server, server.client() as client:
        for name in ("tests/tiny", "tiny", "other"):
            answer = ask(client, model=name)
            assert answer.status_code == 200
        assert answer.json()["model"] == "tests/tiny"
        assert [card["id"] for card in client.get("/v1/models").json()["data"]] == ["tests/tiny", "other"]
        created = server.service.created
        assert abs(created - time.time()) < 600
        for name in ("tests/tiny", "tiny", "other"):
            assert client.get(f"/v1/models/{name}").json() == {
                "id": name, "object": "model", "created": created, "owned_by": "chatplan", "root": "tests/tiny",
                "parent": None, "max_model_len": 1024}  # fmt: skip
        assert client.get("/v1/models/nobody").status_code == 404


def test_an_explanation(http: httpx.Client, slow_chat: Chat) -> None:
    request = {"messages": HI, "seed": 7, "top_k": 3}
    answer = http.post("/v1/chat/completions/explain", json=request)
    assert answer.status_code == 200
    assert [row["field"] for row in answer.json()["fields"]] == ["messages", "seed", "top_k", "request_id"]
    refused = http.post("/v1/chat/completions/explain", json={**request, "top_k": -9})
    assert refused.json()["error"]["param"] == "top_k"


def test_the_schema_of_what_is_served(serve: Any, new_chat: Any) -> None:
    """With the defaults that hold here, and what this engine refuses."""

    class Elsewhere(GenerateEngine):
        name = "elsewhere"
        unsupported: ClassVar[Any] = {"beam_width": "not here", "top_k": "nor this"}

    class Engines:
        @hookimpl
        def engine(self, model: ModelInfo) -> Engine:
            return Elsewhere(model)

    chat = new_chat(plugins=[Engines()], defaults={"top_p": 0.25})
    with serve(chat) as server, server.client() as client:
        found = client.get("/v1/chat/completions/schema").json()
    assert found["x-engine"] == "elsewhere"
    assert found["properties"]["top_p"]["default"] == 0.25
    assert found["properties"]["temperature"].get("default") is None
    refused = {name: item["x-refused-here"] for name, item in found["properties"].items() if "x-refused-here" in item}
    assert refused == {"top_k": "nor this"}
    names = list(found["properties"])
    assert [name for name in names if name in list(itertools.chain(*GROUPS.values()))] == list(
        itertools.chain(*GROUPS.values())
    )
    assert names[-1] == "force"  # the fields of plugins come last


def test_defaults_of_the_server_hold(serve: Any, new_chat: Any, http: httpx.Client, ask: Ask) -> None:
    with serve(new_chat(defaults={"max_tokens": 3})) as server, server.client() as client:
        assert ask(client, max_tokens=None).json()["usage"]["completion_tokens"] == 3
        assert ask(client, max_tokens=2).json()["usage"]["completion_tokens"] == 2
