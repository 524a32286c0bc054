"""The answer through the engine is the one without it: our own server is asked, with the same model behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from chatplan import Chat, fold

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "look", "parameters": SCHEMA}}
RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 5}
DRAWN: dict[str, Any] = {"seed": 7, "max_tokens": 6}
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "seed": DRAWN,
    "sampling": {**DRAWN, "temperature": 0.9, "top_p": 0.8, "top_k": 20, "min_p": 0.01},
    "penalties": {**DRAWN, "frequency_penalty": 0.5, "presence_penalty": 0.4, "repetition_penalty": 1.1},
    "bias": {**GREEDY, "logit_bias": {"65": 50}, "bad_words": ["B"]},
    "allowed": {**GREEDY, "allowed_token_ids": [65, 66, 67]},
    "n": {**DRAWN, "n": 3},
    "best_of": {**DRAWN, "n": 2, "best_of": 3},
    "beams": {**GREEDY, "n": 2, "use_beam_search": True, "length_penalty": 0.5},
    "stop": {**DRAWN, "guided_regex": "abcdef", "stop": ["cd"]},
    "stop kept": {**DRAWN, "guided_regex": "abcdef", "stop": "cd", "include_stop_str_in_output": True},
    "stop ids": {**GREEDY, "force": [65, 66, 67], "stop_token_ids": [66]},
    "length": {**GREEDY, "min_tokens": 3, "ignore_eos": True},
    "logprobs": {**GREEDY, "logprobs": True, "top_logprobs": 3},
    "prompt_logprobs": {**GREEDY, "prompt_logprobs": 1},
    "token ids": {**GREEDY, "return_token_ids": True},
    "token names": {**GREEDY, "logprobs": True, "return_tokens_as_token_ids": True},
    "guided_json": {**DRAWN, "max_tokens": 20, "guided_json": SCHEMA},
    "guided_choice": {**DRAWN, "guided_choice": ["yes", "no"]},
    "guided_grammar": {**DRAWN, "guided_grammar": 'start: "x" | "y"'},
    "guided whitespace": {**DRAWN, "max_tokens": 20, "guided_json": SCHEMA, "guided_whitespace_pattern": ""},
    "structured_outputs": {**DRAWN, "max_tokens": 20, "structured_outputs": {"json": SCHEMA}},
    "response_format": {**DRAWN, "max_tokens": 20, "response_format": RESPONSE_FORMAT},
    "template": {**GREEDY, "chat_template": "{{ messages[0].content }}{{ x }}", "chat_template_kwargs": {"x": "!"}},
    "documents": {**GREEDY, "documents": [{"title": "a", "text": "b"}]},
    "truncate": {**GREEDY, "truncate_prompt_tokens": 4},
    "salt": {**GREEDY, "cache_salt": "s", "user": "u"},
}


def answer(chat: Chat, fields: dict[str, Any]) -> dict[str, Any]:
    return plain(chat(HI, **fields).to_dict())


def plain(data: dict[str, Any]) -> dict[str, Any]:
    """An answer without what is new each time."""
    for choice in data["choices"]:
        for call in choice["message"].get("tool_calls") or ():
            del call["id"]
    return {name: value for name, value in data.items() if name not in ("id", "created")}


@pytest.mark.parametrize("fields", REQUESTS.values(), ids=REQUESTS)
def test_whole(direct: Chat, remote: Chat, fields: dict[str, Any]) -> None:
    assert answer(remote, fields) == answer(direct, fields)


@pytest.mark.parametrize("name", ["greedy", "n", "stop", "logprobs", "token ids", "guided_json"])
def test_streamed(direct: Chat, remote: Chat, name: str) -> None:
    fields = {**REQUESTS[name], "stream_options": {"include_usage": True}}
    with remote.stream(HI, **fields) as stream:
        chunks = list(stream)
    assert plain(fold(chunks).to_dict()) == answer(direct, REQUESTS[name])
    assert len(chunks) > 3


@pytest.mark.dev_only
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
@pytest.mark.parametrize("stream", [False, True])
def test_tools(direct: Chat, remote: Chat, choice: Any, stream: bool) -> None:
    fields = {"tools": [TOOL], "tool_choice": choice, "seed": 1, "max_tokens": 60}
    wanted = answer(direct, fields)
    assert wanted["choices"][0]["message"]["tool_calls"]
    if stream:
        with remote.stream(HI, stream_options={"include_usage": True}, **fields) as chunks:
            assert plain(fold(chunks).to_dict()) == wanted
    else:
        assert answer(remote, fields) == wanted


def test_an_answer_goes_back_into_the_conversation(direct: Chat, remote: Chat) -> None:
    first = remote(HI, **GREEDY).choices[0].message
    talk = [*HI, first, {"role": "user", "content": "More"}]
    assert plain(remote(talk, **GREEDY).to_dict()) == plain(direct(talk, **GREEDY).to_dict())


def test_what_is_set_to_its_default_is_sent(remote: Chat) -> None:
    plan = remote.plan(HI, top_p=1.0, n=1)
    sent = {effect.name: effect.value for effect in plan.effects}
    assert (sent["top_p"], sent["n"]) == (1.0, 1)
    assert "temperature" not in sent


def test_batches(direct: Chat, remote: Chat) -> None:
    requests = [{"messages": HI, "seed": seed, "max_tokens": 4} for seed in range(12)]
    assert [each.text for each in remote(requests)] == [each.text for each in direct(requests)]


def test_in_an_event_loop(direct: Chat, remote: Chat) -> None:
    async def talk() -> tuple[str, str]:
        whole = await remote.acomplete(HI, **DRAWN)
        async with remote.stream(HI, **DRAWN) as stream:
            return whole.text, "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(talk()) == (direct(HI, **DRAWN).text,) * 2


def test_usage_on_every_chunk(direct: Chat, remote: Chat) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    counts = []
    for chat in (direct, remote):
        with chat.stream(HI, **GREEDY, stream_options=options) as stream:
            counts.append([chunk.usage.completion_tokens for chunk in stream if chunk.usage is not None])
    assert counts[0] == counts[1]


def test_usage_is_shown_when_it_is_asked_for(remote: Chat) -> None:
    with remote.stream(HI, **GREEDY) as stream:
        assert all(chunk.usage is None for chunk in stream)
    assert stream.run.usage is not None
    assert stream.run.tokens[1] == stream.run.usage.completion_tokens == 5
