"""The reply models: exactly the keys of the wire format, and values that JSON can hold."""

from __future__ import annotations

import json
import math
from typing import Any

import pydantic
import pytest

from chatplan.response import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    Choice,
    ChunkChoice,
    Delta,
    FunctionCall,
    FunctionCallDelta,
    LogprobsContent,
    PromptLogprob,
    PromptTokensDetails,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    TopLogprob,
    Usage,
)


def completion(**more: Any) -> ChatCompletion:
    data = {"id": "chatcmpl-1", "created": 7, "model": "m", "choices": [Choice(index=0, message=ChatMessage())]}
    return ChatCompletion.model_validate({**data, **more})


def chunk(**more: Any) -> ChatCompletionChunk:
    return ChatCompletionChunk.model_validate({"id": "chatcmpl-1", "created": 7, "model": "m", **more})


def test_a_plain_completion() -> None:
    choice = Choice(index=0, message=ChatMessage(content="Hi"), finish_reason="stop")
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    assert completion(choices=[choice], usage=usage).to_dict() == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi", "tool_calls": []},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5, "prompt_tokens_details": None},
        "prompt_logprobs": None,
    }


def test_a_completion_with_everything() -> None:
    message = ChatMessage(
        role="assistant",
        content=None,
        tool_calls=[ToolCall(id="chatcmpl-tool-1", function=FunctionCall(name="f", arguments="{}"))],
        reasoning_content="hm",
    )
    token = TokenLogprob(token="a", logprob=-0.5, bytes=[97], top_logprobs=[TopLogprob(token="b", logprob=-1)])
    choice = Choice(
        index=0,
        message=message,
        logprobs=LogprobsContent(content=[token]),
        finish_reason="tool_calls",
        stop_reason=5,
        token_ids=[1, 2],
    )
    usage = Usage(prompt_tokens_details=PromptTokensDetails(cached_tokens=1))
    prompt = [None, {"5": PromptLogprob(logprob=-1.5, rank=2, decoded_token="x")}]
    dumped = completion(choices=[choice], usage=usage, prompt_logprobs=prompt, prompt_token_ids=[5, 6]).to_dict()
    assert dumped["choices"][0] == {
        "index": 0,
        "message": {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "chatcmpl-tool-1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
            "reasoning_content": "hm",
        },
        "logprobs": {
            "content": [
                {
                    "token": "a",
                    "logprob": -0.5,
                    "bytes": [97],
                    "top_logprobs": [{"token": "b", "logprob": -1.0, "bytes": None}],
                }
            ]
        },
        "finish_reason": "tool_calls",
        "stop_reason": 5,
        "token_ids": [1, 2],
    }
    assert dumped["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert dumped["prompt_logprobs"] == [None, {"5": {"logprob": -1.5, "rank": 2, "decoded_token": "x"}}]
    assert dumped["prompt_token_ids"] == [5, 6]


def test_a_choice_without_logprobs_content_or_tokens() -> None:
    assert LogprobsContent().to_dict() == {"content": []}
    assert TokenLogprob(token="", logprob=0).to_dict() == {
        "token": "",
        "logprob": 0.0,
        "bytes": None,
        "top_logprobs": [],
    }


CHUNKS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"choices": [ChunkChoice(index=0, delta=Delta(role="assistant", content=""))]},
        {
            "choices": [
                {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
            ]
        },
    ),
    (
        {"choices": [ChunkChoice(index=1, delta=Delta(reasoning_content="hm"), token_ids=[4])]},
        {
            "choices": [
                {
                    "index": 1,
                    "delta": {"reasoning_content": "hm"},
                    "logprobs": None,
                    "finish_reason": None,
                    "token_ids": [4],
                }
            ]
        },
    ),
    (
        {"choices": [ChunkChoice(index=0, finish_reason="stop", stop_reason=None)]},
        {"choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop", "stop_reason": None}]},
    ),
    (
        {"usage": Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)},
        {
            "choices": [],
            "usage": {
                "prompt_tokens": 1,
                "completion_tokens": 2,
                "total_tokens": 3,
                "prompt_tokens_details": None,
            },
        },
    ),
    ({"prompt_token_ids": [1]}, {"choices": [], "prompt_token_ids": [1]}),
]


@pytest.mark.parametrize(("more", "keys"), CHUNKS)
def test_chunk_has_only_what_was_set(more: dict[str, Any], keys: dict[str, Any]) -> None:
    assert chunk(**more).to_dict() == {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 7,
        "model": "m",
        **keys,
    }


def test_tool_call_deltas_have_only_what_was_set() -> None:
    first = ToolCallDelta(index=0, id="t", type="function", function=FunctionCallDelta(name="f", arguments=""))
    later = ToolCallDelta(index=0, function=FunctionCallDelta(arguments="{}"))
    assert first.to_dict() == {
        "index": 0,
        "id": "t",
        "type": "function",
        "function": {"name": "f", "arguments": ""},
    }
    assert later.to_dict() == {"index": 0, "function": {"arguments": "{}"}}


def test_what_is_set_later_is_written() -> None:
    delta = Delta()
    delta.content = "x"
    piece = ChunkChoice(index=0, delta=delta)
    piece.finish_reason, piece.stop_reason = "stop", None
    assert piece.to_dict() == {
        "index": 0,
        "delta": {"content": "x"},
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
    }


@pytest.mark.parametrize("reply", [completion(prompt_logprobs=[None]), *(chunk(**more) for more, _ in CHUNKS)])
def test_json_is_the_dict_on_one_line_and_reads_back(reply: ChatCompletion | ChatCompletionChunk) -> None:
    text = reply.to_json()
    assert "\n" not in text
    assert json.loads(text) == reply.to_dict()
    assert type(reply).model_validate_json(text).to_dict() == reply.to_dict()


@pytest.mark.parametrize(
    ("given", "kept"),
    [(-math.inf, -9999.0), (-1e9, -9999.0), (math.nan, -9999.0), (-9999.0, -9999.0), (-0.25, -0.25), (0.0, 0.0)],
)
def test_logprobs_are_at_least_minus_9999(given: float, kept: float) -> None:
    assert TopLogprob(token="a", logprob=given).logprob == kept
    assert TokenLogprob(token="a", logprob=given).logprob == kept
    assert PromptLogprob(logprob=given).logprob == kept


def test_prompt_logprob_keys_are_strings_and_may_be_given_as_numbers() -> None:
    one = PromptLogprob(logprob=-1)
    assert completion(prompt_logprobs=[None, {5: one}]).prompt_logprobs == [None, {"5": one}]


def test_text_is_the_first_choices_content() -> None:
    assert completion(choices=[Choice(index=0, message=ChatMessage(content="Hi"))]).text == "Hi"
    assert completion().text == ""


def test_tool_calls_get_an_id_of_their_own() -> None:
    function = FunctionCall(name="f", arguments="{}")
    first, second = ToolCall(function=function), ToolCall(function=function)
    assert first.id.startswith("chatcmpl-tool-")
    assert first.id != second.id


def test_defaults_are_not_shared() -> None:
    first, second = ChatMessage(), ChatMessage()
    first.tool_calls.append(ToolCall(function=FunctionCall(name="f", arguments="{}")))
    assert second.tool_calls == []


@pytest.mark.parametrize("reason", ["done", "", 1])
def test_finish_reasons_are_known_ones(reason: Any) -> None:
    with pytest.raises(pydantic.ValidationError):
        Choice(index=0, message=ChatMessage(), finish_reason=reason)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "abort", None])
def test_finish_reason(reason: Any) -> None:
    assert Choice(index=0, message=ChatMessage(), finish_reason=reason).to_dict()["finish_reason"] == reason
