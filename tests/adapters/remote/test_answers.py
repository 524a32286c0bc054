"""Answers of other servers, each with what it leaves out, adds or calls otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chatplan import ChatCompletion, EngineError, fold

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "look"}}


def whole(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": None, **message}
    return {"id": "", "model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}


@pytest.fixture
def asked(connect: Callable[..., Any], peer: Any) -> Callable[..., ChatCompletion]:
    """The answer to a request, when the server replies with this; with its stream when that is a list."""

    def ask(reply: Any, kind: str = "vllm", **fields: Any) -> ChatCompletion:
        peer.replies = [(200, reply)]
        chat = connect(peer, server=kind, version="1")
        if not isinstance(reply, list):
            answer: ChatCompletion = chat(HI, **fields)
            return answer
        with chat.stream(HI, stream_options={"include_usage": True}, **fields) as stream:
            return fold(stream)

    return ask


def test_reasoning_has_two_names(asked: Callable[..., ChatCompletion]) -> None:
    for name in ("reasoning", "reasoning_content"):
        reply = whole({"content": "4", name: "2 + 2"})
        assert asked(reply).choices[0].message.reasoning_content == "2 + 2"
        assert asked(reply, include_reasoning=False).choices[0].message.reasoning_content is None
        pieces: list[Any] = [
            {"choices": [{"index": 0, "delta": {name: "2 +"}}]},
            {"choices": [{"index": 0, "delta": {name: " 2"}}]},
            {"choices": [{"index": 0, "delta": {"content": "4"}, "finish_reason": "stop"}]},
        ]
        message = asked(pieces).choices[0].message
        assert (message.reasoning_content, message.content) == ("2 + 2", "4")


@pytest.mark.parametrize(
    ("choice", "reason", "stop"),
    [
        ({"finish_reason": "stop", "stop_reason": "###"}, "stop", "###"),
        ({"finish_reason": "stop", "stop_reason": 7}, "stop", 7),
        ({"finish_reason": "stop", "matched_stop": "###"}, "stop", "###"),
        ({"finish_reason": "stop", "matched_stop": 151645}, "stop", None),
        ({"finish_reason": "stop", "matched_stop": 7}, "stop", 7),
        ({"finish_reason": "length", "matched_stop": None}, "length", None),
        ({"finish_reason": "eos_token"}, "stop", None),
        ({"finish_reason": "content_filter"}, "abort", "content_filter"),
        ({"finish_reason": "repetition"}, "abort", "repetition"),
    ],
)
def test_ends(asked: Callable[..., ChatCompletion], choice: Any, reason: str, stop: Any) -> None:
    found = asked(whole({"content": "x"}, **choice), stop_token_ids=[7]).choices[0]
    assert (found.finish_reason, found.stop_reason) == (reason, stop)


CALL = {"id": "0", "type": "function", "function": {"name": "look", "arguments": {"a": 1}, "description": None}}


def test_calls_of_tgi(asked: Callable[..., ChatCompletion]) -> None:
    """Its arguments may be an object, and it ends with "stop"."""
    for reply in (
        whole({"tool_calls": [CALL]}),
        [{"choices": [{"index": 0, "delta": {"role": "assistant", "tool_calls": CALL}, "finish_reason": "stop"}]}],
    ):
        found = asked(reply, "tgi", tools=[TOOL]).choices[0]
        assert found.message.tool_calls[0].function.arguments == '{"a": 1}'
        assert (found.finish_reason, found.message.content) == ("tool_calls", None)


def test_calls_come_bit_by_bit(asked: Callable[..., ChatCompletion]) -> None:
    def piece(**call: Any) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]}

    found = asked(
        [
            piece(index=0, id="a", type="function", function={"name": "look", "arguments": ""}),
            piece(index=0, function={"arguments": '{"a":'}),
            piece(index=0, id=None, type=None, function={"name": None, "arguments": " 1}"}),
            piece(index=1, id="b", type="function", function={"name": "look", "arguments": "{}"}),
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
        ],
        tools=[TOOL],
    ).choices[0]
    calls = [(call.id, call.function.name, call.function.arguments) for call in found.message.tool_calls]
    assert calls == [("a", "look", '{"a": 1}'), ("b", "look", "{}")]


def test_a_named_call_ends_with_stop(asked: Callable[..., ChatCompletion]) -> None:
    named = {"type": "function", "function": {"name": "look"}}
    assert asked(whole({"tool_calls": [CALL]}), tools=[TOOL], tool_choice=named).choices[0].finish_reason == "stop"


def test_no_more_alternatives_than_asked_for(asked: Callable[..., ChatCompletion]) -> None:
    """llama.cpp gives one at least."""
    entry = {"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": [{"token": "x", "logprob": -0.1}]}
    reply = whole({"content": "x"}, logprobs={"content": [entry, {"token": "y", "logprob": -99999.0}]})
    logprobs = asked(reply, logprobs=True).choices[0].logprobs
    assert logprobs is not None
    assert [len(each.top_logprobs) for each in logprobs.content] == [0, 0]
    assert logprobs.content[1].logprob == -9999.0
    logprobs = asked(reply, logprobs=True, top_logprobs=1).choices[0].logprobs
    assert logprobs is not None
    assert len(logprobs.content[0].top_logprobs) == 1


def test_usage_may_come_with_the_last_choice(asked: Callable[..., ChatCompletion]) -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    last = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    answer = asked([last])
    assert answer.usage is not None
    assert answer.usage.to_dict() == usage


def test_a_server_without_usage(asked: Callable[..., ChatCompletion]) -> None:
    assert asked(whole({"content": "x"})).usage is None


def test_an_empty_id_is_replaced(asked: Callable[..., ChatCompletion], peer: Any) -> None:
    """TGI's ids are empty."""
    answer = asked(whole({"content": "x"}), "tgi")
    assert answer.id == f"chatcmpl-{peer.got[-1][1]['x-request-id']}"


def test_fewer_choices_than_asked_for_are_an_error(asked: Callable[..., ChatCompletion]) -> None:
    with pytest.raises(EngineError, match="1 of 2 choices"):
        asked(whole({"content": "x"}), n=2)
