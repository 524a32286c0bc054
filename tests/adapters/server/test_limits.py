"""Every limit, one by one: what is refused, with which status, and that the message names the setting."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx
import pytest
from waiting import wait_until

from chatplan import Chat, RequestError, hookimpl
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.limits import check_plan
from chatplan.adapters.server.patience import Patience, StillWaiting
from chatplan.adapters.server.record import Record
from chatplan.errors import DeadlineError, OverloadedError

Ask = Callable[..., httpx.Response]
Stream = Callable[..., Any]
HI = {"role": "user", "content": "Hi"}
ENDLESS: dict[str, Any] = {"slow": 0.05, "max_tokens": 900}  # 45 seconds: longer than any of these tests waits
PROMPT = 21  # tokens, of the model's template and this message


# --- what a request may ask for ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strict(serve: Any, slow_chat: Chat) -> Iterator[Any]:
    with serve(slow_chat, max_messages=2, max_choices=2, max_total_tokens=45) as server:
        yield server


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"messages": [HI, HI, HI]}, "messages", "max_messages=2, got 3"),
        ({"n": 3}, "n", "max_choices=2, got 3"),
        ({"best_of": 3, "temperature": 1}, "best_of", "max_choices=2, got 3"),
        ({"max_tokens": 25}, "max_tokens", "max_total_tokens=45, .* 46: 21 in the prompt, and 1 times 25"),
        ({"n": 2, "max_tokens": 13}, "max_tokens", "max_total_tokens=45, .* 47: 21 in the prompt, and 2 times 13"),
        ({"best_of": 2, "temperature": 1, "max_tokens": 13}, "max_tokens", "and 2 times 13"),
        ({"max_completion_tokens": 25}, "max_completion_tokens", "max_total_tokens=45"),
        ({"max_tokens": None}, "max_tokens", "max_total_tokens=45"),
        ({"max_tokens": 25, "stream": True}, "max_tokens", "max_total_tokens=45"),
        ({"n": 3, "stream": True}, "n", "max_choices=2"),
    ],
    ids=range(10),
)
def test_what_a_request_may_ask_for(strict: Any, ask: Ask, fields: dict[str, Any], param: str, message: str) -> None:
    with strict.client() as client:
        answer = ask(client, **fields)
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == (param, "limit_exceeded")
        assert re.search(message, error["message"])


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [HI, HI], "max_tokens": 1},
        {"n": 2, "max_tokens": 12},
        {"best_of": 2, "temperature": 1, "max_tokens": 12},
        {"max_tokens": 24},
        {"max_completion_tokens": 24},
    ],
    ids=str,
)
def test_as_much_as_a_limit_is_allowed(strict: Any, ask: Ask, fields: dict[str, Any]) -> None:
    with strict.client() as client:
        assert ask(client, **fields).status_code == 200


def test_an_explanation_is_no_way_around_the_limits(strict: Any) -> None:
    with strict.client() as client:
        answer = client.post("/v1/chat/completions/explain", json={"messages": [HI, HI, HI]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "messages")


def test_each_beam_counts_as_an_answer(slow_chat: Chat) -> None:
    plan = slow_chat.plan([HI], max_tokens=10)
    wide = dataclasses.replace(plan, generation_config={**plan.generation_config, "num_beams": 3})
    check_plan(wide, ServerSettings(max_total_tokens=PROMPT + 30))
    check_plan(plan, ServerSettings(max_total_tokens=PROMPT + 10))
    check_plan(wide, ServerSettings())
    with pytest.raises(RequestError, match="3 times 10"):
        check_plan(wide, ServerSettings(max_total_tokens=PROMPT + 29))


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
    with serve(new_chat(**setting)) as server, server.client() as client:
        answer = ask(client, **fields)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


# --- how many at once, and how long -----------------------------------------------------------------------------------


def test_the_queue(serve: Any, slow_chat: Chat, ask: Ask, stream: Stream) -> None:
    """The engine runs one call at a time: the second stream waits for its first token, the third is refused."""
    with serve(slow_chat, max_queue=1, keep_alive_seconds=0.05) as server, server.client() as client:
        with stream(client, **ENDLESS) as first:
            server.wait_generating()
            with stream(client, **ENDLESS) as second:
                assert (first.status_code, second.status_code) == (200, 200)
                for streamed in (False, True):
                    answer = ask(client, stream=streamed)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
                    assert "max_queue=1" in answer.json()["error"]["message"]
                    assert answer.headers["retry-after"] == "2"
        server.wait_idle()
        assert ask(client).status_code == 200


def test_streams_at_once(serve: Any, slow_chat: Chat, ask: Ask, stream: Stream) -> None:
    settings = {"max_streams": 2, "keep_alive_seconds": 0.05}
    with serve(slow_chat, **settings) as server, server.client() as client:
        with stream(client, **ENDLESS), stream(client, **ENDLESS) as second:
            assert second.status_code == 200
            answer = ask(client, stream=True)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "overloaded")
            assert "max_streams=2" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"] == "2"
            whole = {"messages": [HI], "max_tokens": 1}
            assert client.post("/v1/chat/completions/explain", json=whole).status_code == 200
        server.wait_idle()
        assert ask(client, stream=True).status_code == 200


def test_whole_answers_are_no_streams(serve: Any, held_chat: Chat, hold: Any, ask: Ask, stream: Stream) -> None:
    settings = {"max_streams": 1, "keep_alive_seconds": 0.05}
    with serve(held_chat, **settings) as server, server.client() as client, ThreadPoolExecutor(1) as thread:
        whole = thread.submit(ask, client, hold=0)
        wait_until(lambda: server.service.waiting == 1)
        with stream(client) as answer:
            assert answer.status_code == 200
            hold.let_go()
        assert whole.result(60).status_code == 200


@pytest.mark.parametrize("streamed", [False, True])
def test_time_to_the_first_token(serve: Any, held_chat: Chat, hold: Any, ask: Ask, streamed: bool) -> None:
    with serve(held_chat, first_token_seconds=0.2) as server, server.client() as client:
        answer = ask(client, hold=0, stream=streamed)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "first_token_seconds=0.2" in answer.json()["error"]["message"]


def test_after_the_first_token_its_time_is_of_no_account(
    serve: Any, held_chat: Chat, hold: Any, stream: Stream, turned: Any
) -> None:
    settings = {"first_token_seconds": 1000, "keep_alive_seconds": 0.05}
    with serve(held_chat, **settings) as server, server.client() as client:
        with stream(client, hold=2) as answer:
            server.wait_generating()
            turned.ahead = 2000
            hold.let_go()
            assert [line for line in answer.iter_lines() if line][-1] == "data: [DONE]"
        with stream(client, hold=0) as late:  # its own time begins with it, before the clock that was turned
            assert late.status_code == 504


def test_a_stream_that_waits_for_its_first_token_too_long_ends_with_an_error(
    serve: Any, held_chat: Chat, stream: Stream, turned: Any
) -> None:
    settings = {"first_token_seconds": 1000, "total_seconds": 5000, "keep_alive_seconds": 0.05}
    with serve(held_chat, **settings) as server, server.client() as client, stream(client, hold=0) as answer:
        lines = answer.iter_lines()
        assert next(line for line in lines if line.startswith(":")) == ": keep-alive"
        turned.ahead = 2000
        rest = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert rest[-1] == "[DONE]"
    error = json.loads(rest[-2])["error"]
    assert (error["code"], error["type"]) == ("deadline_exceeded", DeadlineError.type)
    assert "first_token_seconds=1000" in error["message"]


def test_time_in_total(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    with serve(slow_chat, total_seconds=0.2) as server, server.client() as client:
        answer = ask(client, **ENDLESS)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert "total_seconds=0.2" in answer.json()["error"]["message"]


def test_time_in_total_of_a_stream(serve: Any, slow_chat: Chat, stream: Stream, ask: Ask, turned: Any) -> None:
    with serve(slow_chat, total_seconds=1000, keep_alive_seconds=0.05) as server, server.client() as client:
        with stream(client, **ENDLESS) as answer:
            lines = (line for line in answer.iter_lines() if line.startswith("data: "))
            assert "chat.completion.chunk" in next(lines)
            server.wait_generating()
            turned.ahead = 2000
            *_, error, done = lines
        assert answer.status_code == 200
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == "deadline_exceeded"
        assert "total_seconds=1000" in error
        assert done == "data: [DONE]"
        server.wait_idle()
        turned.ahead = 0
        assert ask(client).status_code == 200


def test_planning_is_part_of_the_time(serve: Any, new_chat: Any, ask: Ask) -> None:
    opened = threading.Event()

    class Plans:
        @hookimpl
        def check_request(self) -> None:
            assert opened.wait(40), "nobody opened"

    settings = {"first_token_seconds": 0.2, "total_seconds": 30}
    with serve(new_chat(plugins=[Plans()]), **settings) as server, server.client() as client:
        try:
            for streamed in (False, True):
                answer = ask(client, stream=streamed)
                assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
        finally:
            opened.set()


# --- patience, without a server ---------------------------------------------------------------------------------------


async def never() -> None:
    await anyio.sleep_forever()


def record(age: float = 0, first: bool = False) -> Record:
    made = Record("r", "POST", "/", started=time.monotonic() - age)
    made.first_token = made.started if first else None
    return made


@pytest.mark.parametrize(
    ("age", "first", "settings", "message"),
    [
        (100, False, {"first_token_seconds": 50}, "did not begin within first_token_seconds=50"),
        (100, False, {"first_token_seconds": 50, "total_seconds": 200}, "first_token_seconds=50"),
        (100, False, {"first_token_seconds": 99, "total_seconds": 50}, "total_seconds=50"),
        (100, False, {"total_seconds": 50.5}, "took longer than total_seconds=50.5"),
        (100, True, {"first_token_seconds": 10, "total_seconds": 50}, "total_seconds=50"),
    ],
    ids=range(5),
)
def test_which_limit_is_over(age: float, first: bool, settings: dict[str, float], message: str) -> None:
    patience = Patience(record(age, first), ServerSettings(**settings))
    with pytest.raises(DeadlineError, match=message):
        asyncio.run(patience.wait(never, 30))


@pytest.mark.parametrize(
    ("first", "settings"),
    [
        (False, {}),
        (False, {"first_token_seconds": 200}),
        (False, {"total_seconds": 200}),
        (True, {"first_token_seconds": 50}),
        (True, {"first_token_seconds": 50, "total_seconds": 200}),
    ],
    ids=range(5),
)
def test_which_limit_is_not_over(first: bool, settings: dict[str, float]) -> None:
    patience = Patience(record(100, first), ServerSettings(**settings))
    with pytest.raises(StillWaiting):
        asyncio.run(patience.wait(never, 0.01))


def test_work_that_comes_in_time_is_returned() -> None:
    async def work() -> int:
        await asyncio.sleep(0.01)
        return 3

    limits = ServerSettings(first_token_seconds=100, total_seconds=100)
    assert asyncio.run(Patience(record(), limits).wait(work, 60)) == 3
    assert asyncio.run(Patience(record(), ServerSettings()).wait(work)) == 3


def test_who_waits_is_told_at_once_when_the_request_is_ended() -> None:
    async def ended_while_waiting() -> None:
        patience = Patience(record(), ServerSettings())
        asyncio.get_running_loop().call_later(0.01, patience.abort, OverloadedError("closed"))
        await asyncio.wait_for(patience.wait(never), 30)

    async def ended_before() -> None:
        patience = Patience(record(), ServerSettings())
        patience.abort(OverloadedError("closed"))
        await asyncio.wait_for(patience.wait(never), 30)

    for end in (ended_while_waiting, ended_before):
        with pytest.raises(OverloadedError, match="closed"):
            asyncio.run(end())
