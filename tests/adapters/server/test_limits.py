"""Every limit, one by one: what is refused, with which status, and that the message names the setting."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from chatplan import Chat

Ask = Callable[..., httpx.Response]
HI = {"role": "user", "content": "Hi"}
ENDLESS: dict[str, Any] = {"slow": 0.01, "max_tokens": 900}


@pytest.mark.parametrize(
    ("setting", "fields", "param"),
    [
        ({"max_messages": 2}, {"messages": [HI, HI, HI]}, "messages"),
        ({"max_choices": 2}, {"n": 3}, "n"),
        ({"max_choices": 2}, {"best_of": 3, "temperature": 1}, "best_of"),
        ({"max_total_tokens": 45}, {"n": 3, "max_tokens": 10}, "max_tokens"),
        ({"max_total_tokens": 45}, {"max_completion_tokens": 50}, "max_completion_tokens"),
        ({"max_total_tokens": 45}, {"max_tokens": None}, "max_tokens"),
    ],
)
def test_what_a_request_may_ask_for(
    serve: Any, slow_chat: Chat, ask: Ask, setting: dict[str, int], fields: dict[str, Any], param: str
) -> None:
    with serve(slow_chat, **setting) as server, httpx.Client(base_url=server.url) as client:
        answer = ask(client, **fields)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (param, "limit_exceeded")
        ((name, value),) = setting.items()
        assert f"{name}={value}" in error["message"]
        assert ask(client).status_code == 200
        server.wait_idle()


@pytest.mark.parametrize(
    ("setting", "fields", "param"),
    [
        ({"max_stop": 1}, {"stop": ["a", "b"]}, "stop"),
        ({"max_logprobs": 1}, {"logprobs": True, "top_logprobs": 2}, "top_logprobs"),
        ({"guided_bytes": 10}, {"guided_regex": "a" * 20, "ignore_eos": None}, "guided_regex"),
        ({"max_model_len": 60}, {"max_tokens": 50}, "max_tokens"),
    ],
)
def test_limits_of_the_model(
    serve: Any, new_chat: Any, ask: Ask, setting: dict[str, int], fields: dict[str, Any], param: str
) -> None:
    with serve(new_chat(**setting)) as server, httpx.Client(base_url=server.url) as client:
        answer = ask(client, **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_the_queue(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    """The engine runs one call at a time: the second stream waits for its first token, the third is refused."""
    with serve(slow_chat, max_queue=1, keep_alive_seconds=0.05) as server, httpx.Client(base_url=server.url) as client:
        with (
            stream(client, **ENDLESS) as first,
            stream(client, **ENDLESS) as second,
        ):
            assert (first.status_code, second.status_code) == (200, 200)
            answer = ask(client)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert "max_queue=1" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
        server.wait_idle()
        assert ask(client).status_code == 200


def test_streams_at_once(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    with serve(slow_chat, max_streams=1) as server, httpx.Client(base_url=server.url) as client:
        with stream(client, **ENDLESS):
            answer = ask(client, stream=True)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert "max_streams=1" in answer.json()["error"]["message"]
        server.wait_idle()
        assert ask(client, stream=True).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_time_to_the_first_token(serve: Any, slow_chat: Chat, ask: Ask, streamed: bool) -> None:
    with serve(slow_chat, first_token_seconds=0.2) as server, httpx.Client(base_url=server.url) as client:
        began = time.monotonic()
        answer = ask(client, slow=0.6, max_tokens=1, stream=streamed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "first_token_seconds=0.2" in answer.json()["error"]["message"]
        assert time.monotonic() - began < 0.6
        server.wait_idle()
        time.sleep(0.6)  # for the token under way to end
        assert ask(client, slow=0.03, max_tokens=10, stream=streamed).status_code == 200


def test_time_in_total(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    with serve(slow_chat, total_seconds=0.4) as server, httpx.Client(base_url=server.url) as client:
        answer = ask(client, **ENDLESS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "total_seconds=0.4" in answer.json()["error"]["message"]
        streamed = ask(client, **ENDLESS, stream=True)
        assert streamed.status_code == 200
        *_, chunk, error, done, rest = streamed.text.split("\n\n")
        assert "chat.completion.chunk" in chunk
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert (done, rest) == ("data: [DONE]", "")
        server.wait_idle()
        assert ask(client).status_code == 200


def stream(client: httpx.Client, **fields: Any) -> Any:
    body = {"messages": [HI], "temperature": 0, "ignore_eos": True, "stream": True, **fields}
    return client.stream("POST", "/v1/chat/completions", json=body)
