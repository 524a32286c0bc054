"""Answers of a TGI server come back in our shapes: text, stops, log-probabilities, usage, choices, calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers.processors import TemplateProcessing

from chatplan import Chat, ChatPipeline, UnsupportedFieldError
from chatplan.adapters.tgi import TGIEngine, tgi_chat
from chatplan.adapters.tgi.parameters import Limits, text_of
from chatplan.answering import can_parse

if TYPE_CHECKING:
    from tests.adapters.tgi.conftest import StandIn

USER = [{"role": "user", "content": "What is the capital of France?"}]
CLIENT = "text-generation" if find_spec("text_generation") else "http"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
        },
    }
]


@pytest.fixture(scope="module")
def chat(server: StandIn, model_path: str) -> Iterator[Chat]:
    made = tgi_chat(server.url, model_path, client=CLIENT, temperature=0)
    yield made
    made.close()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stop": ["Paris"]},
        {"stop": ["is Par"], "include_stop_str_in_output": True},
        {"max_tokens": 3},
        {"guided_choice": ["Rome", "Paris"]},
        {"frequency_penalty": 1.0, "repetition_penalty": 1.1},
        {"messages": [*USER, {"role": "assistant", "content": "It is"}], "add_generation_prompt": False,
         "continue_final_message": True, "echo": True},
        {"truncate_prompt_tokens": 12},
    ],
    ids=str,
)  # fmt: skip
def test_answer_is_that_of_the_model(chat: Chat, tgi: StandIn, pipe: ChatPipeline, fields: dict[str, Any]) -> None:
    request = {"messages": USER, "max_tokens": 12, **fields}
    there, here = chat(request), pipe(request, temperature=0)
    for one, other in zip(there.choices, here.choices, strict=True):
        assert one.message.content == other.message.content
        assert (one.finish_reason, one.stop_reason) == (other.finish_reason, other.stop_reason)
    assert there.usage == here.usage


def test_log_probabilities_are_of_the_distribution_drawn_from(chat: Chat, tgi: StandIn, pipe: ChatPipeline) -> None:
    fields = {"max_tokens": 3, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": 0}
    there, here = chat(USER, **fields), pipe(USER, temperature=0, **fields)
    for one, other in zip(there.choices[0].logprobs.content, here.choices[0].logprobs.content, strict=True):
        assert one.token == other.token
        assert one.logprob == pytest.approx(other.logprob, abs=1e-3)
        assert [top.token for top in one.top_logprobs] == [top.token for top in other.top_logprobs]
    assert there.prompt_logprobs[0] is None
    for mine, its in zip(there.prompt_logprobs[1:], here.prompt_logprobs[1:], strict=True):
        assert mine.keys() == its.keys()
        assert [v.logprob for v in mine.values()] == pytest.approx([v.logprob for v in its.values()], abs=1e-3)


def test_choices_are_requests_with_seeds_of_their_own(chat: Chat, tgi: StandIn) -> None:
    answer = chat(USER, n=3, seed=7, temperature=1.0, max_tokens=4)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert sorted(body["parameters"]["seed"] for body in tgi.sent) == [7, 8, 9]
    assert answer.usage.completion_tokens == 12


def test_best_of_is_the_likeliest(chat: Chat, tgi: StandIn) -> None:
    answer = chat(USER, best_of=2, temperature=1.0, max_tokens=4, logprobs=True)
    assert tgi.sent[0]["parameters"]["best_of"] == 2
    assert len(tgi.sent) == len(answer.choices) == 1
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content)


def test_stream_comes_token_by_token(chat: Chat, tgi: StandIn, pipe: ChatPipeline) -> None:
    tgi.pause = 0.2
    began, times, text = time.monotonic(), [], ""
    for chunk in chat(USER, stream=True, max_tokens=4):
        text += chunk.choices[0].delta.content or ""
        times.append(time.monotonic() - began)
    assert text == pipe(USER, temperature=0, max_tokens=4).text
    assert times[-1] - times[1] > 0.3


def test_reader_who_leaves_ends_the_request(chat: Chat, tgi: StandIn) -> None:
    tgi.pause = 0.1
    with chat(USER, stream=True, max_tokens=12) as stream:
        next(chunk for chunk in stream if chunk.choices[0].delta.content)
        assert tgi.open == 1
    wait_until_closed(tgi)
    assert stream.run.tokens[1] < 5


def test_answer_that_is_cut_here_ends_the_request(chat: Chat, tgi: StandIn) -> None:
    tgi.pause = 0.1
    # The server looks for stops where a token ends; this one lies within a token.
    answer = chat(USER, max_tokens=12, stop=["apita"])
    assert answer.text == "The c"
    wait_until_closed(tgi)


def test_cancelled_task_ends_the_request(chat: Chat, tgi: StandIn) -> None:
    tgi.pause = 0.1

    async def leave() -> None:
        task = asyncio.create_task(chat.acomplete(USER, max_tokens=12))
        while not tgi.open:
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    wait_until_closed(tgi)


def wait_until_closed(tgi: StandIn) -> None:
    until = time.monotonic() + 5
    while tgi.open and time.monotonic() < until:
        time.sleep(0.02)
    assert tgi.open == 0


def test_batch_is_answered_in_order(chat: Chat, tgi: StandIn, pipe: ChatPipeline) -> None:
    requests = [{"messages": [{"role": "user", "content": f"Say {word}."}], "max_tokens": 5} for word in ("hi", "no")]
    answers = chat(requests)
    assert [a.text for a in answers] == [a.text for a in pipe(requests, temperature=0)]


@pytest.mark.dev_only
def test_calls_of_tools_are_enforced_and_read(chat: Chat, tgi: StandIn) -> None:
    assert can_parse()
    answer = chat(USER, tools=TOOLS, tool_choice="required", max_tokens=60)
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name == "get_weather"
    assert answer.choices[0].finish_reason == "tool_calls"
    assert tgi.sent[0]["parameters"]["grammar"]["type"] == "regex"


def test_credentials_and_headers_are_sent(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, api_key="secret", headers={"X-Team": "blue"}, temperature=0)
    chat(USER, max_tokens=2)
    chat.close()
    assert tgi.headers[0]["authorization"] == "Bearer secret"
    assert tgi.headers[0]["x-team"] == "blue"


def test_limits_are_the_servers_own(tgi: StandIn, model_path: str) -> None:
    tgi.info = {"max_total_tokens": 60, "max_best_of": 1, "max_stop_sequences": 2}
    chat = tgi_chat(tgi.url, model_path)
    assert chat.model.context_length == 60
    for field, value in (("stop", ["a", "b", "c"]), ("best_of", 2), ("max_tokens", 50)):
        with pytest.raises(Exception, match=field):
            chat.plan(USER, **{field: value})
    chat.close()


# --- the beginning of the prompt --------------------------------------------------------------------------------------


def with_bos(chat: Chat, template: str) -> TGIEngine:
    """An engine for a tokenizer that puts BOS first, with a chat template."""
    engine = chat.engine
    assert isinstance(engine, TGIEngine)
    tokenizer = chat.model.tokenizer
    bos = str(tokenizer.bos_token)
    processor = TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, int(tokenizer.bos_token_id or 0))])
    tokenizer.backend_tokenizer.post_processor = processor
    tokenizer.chat_template = template
    return engine


@pytest.mark.parametrize("kept", [None, 100])
@pytest.mark.parametrize("written", [True, False])
def test_bos_is_not_doubled(tgi: StandIn, model_path: str, written: bool, kept: int | None) -> None:
    chat = tgi_chat(tgi.url, model_path, client="http", temperature=0)
    with_bos(chat, "{{ bos_token }}{{ messages[0].content }}" if written else "{{ messages[0].content }}")
    plan = chat.plan(USER, add_special_tokens=not written, truncate_prompt_tokens=kept)
    assert plan.prompt.token_ids.count(chat.model.tokenizer.bos_token_id) == 1
    assert text_of(plan, chat.model) == USER[0]["content"]
    chat.close()


def test_prompt_that_would_be_read_otherwise_is_refused(tgi: StandIn, model_path: str) -> None:
    chat = tgi_chat(tgi.url, model_path, client="http", temperature=0)
    with_bos(chat, "{{ messages[0].content }}")
    with pytest.raises(UnsupportedFieldError, match="add_special_tokens"):
        chat(USER)
    assert not tgi.sent
    chat.close()


def test_defaults_of_limits_are_those_of_tgi() -> None:
    assert Limits() == Limits(best_of=2, stops=4, tokens=None)
