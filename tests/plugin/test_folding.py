"""A completion is the fold of its stream."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from chatplan.errors import EngineError
from chatplan.folding import fold
from chatplan.response import (
    ChatCompletionChunk,
    ChunkChoice,
    Delta,
    FunctionCallDelta,
    LogprobsContent,
    PromptLogprob,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)


def chunk(*choices: ChunkChoice, **more: Any) -> ChatCompletionChunk:
    data = {"id": "chatcmpl-1", "created": 7, "model": "m", "choices": list(choices)}
    return ChatCompletionChunk.model_validate({**data, **more})


def piece(index: int = 0, **more: Any) -> ChunkChoice:
    delta = {key: more.pop(key) for key in ("role", "content", "reasoning_content", "tool_calls") if key in more}
    return ChunkChoice.model_validate({"index": index, "delta": Delta.model_validate(delta), **more})


def call(index: int, arguments: str | None = None, name: str | None = None, id: str | None = None) -> ToolCallDelta:
    return ToolCallDelta(index=index, id=id, function=FunctionCallDelta(name=name, arguments=arguments))


def test_a_plain_answer() -> None:
    usage = Usage(prompt_tokens=3, completion_tokens=2, total_tokens=5)
    stream = [
        chunk(piece(role="assistant", content="")),
        chunk(piece(content="Hel")),
        chunk(piece(content="lo", finish_reason="stop", stop_reason="!")),
        chunk(usage=usage),
    ]
    assert fold(iter(stream)).to_dict() == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 7,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello", "tool_calls": []},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": "!",
            }
        ],
        "usage": usage.to_dict(),
        "prompt_logprobs": None,
    }


def test_choices_are_sorted_however_they_are_interleaved() -> None:
    pieces = [piece(index, content=f"{index}{step}") for step in range(5) for index in range(4)]
    random.Random(0).shuffle(pieces)
    expected = {index: "".join(p.delta.content or "" for p in pieces if p.index == index) for index in range(4)}
    stream = [chunk(*pieces[:7]), *(chunk(one) for one in pieces[7:])]
    choices = fold(stream).choices
    assert [choice.index for choice in choices] == [0, 1, 2, 3]
    assert {choice.index: choice.message.content for choice in choices} == expected


def test_reasoning_is_there_only_if_it_was_sent() -> None:
    with_it = fold([chunk(piece(reasoning_content="Let me ")), chunk(piece(reasoning_content="see.", content="4"))])
    assert with_it.choices[0].message.to_dict()["reasoning_content"] == "Let me see."
    assert with_it.text == "4"
    assert "reasoning_content" not in fold([chunk(piece(content="4"))]).choices[0].message.to_dict()


def test_content_is_null_if_none_was_sent() -> None:
    assert fold([chunk(piece(finish_reason="stop"))]).choices[0].message.content is None
    assert fold([chunk(piece(content=""))]).choices[0].message.content == ""


def test_role() -> None:
    assert fold([chunk(piece(role="user", content="")), chunk(piece(content="x"))]).choices[0].message.role == "user"
    assert fold([chunk(piece(content="x"))]).choices[0].message.role == "assistant"


def test_tool_calls_are_merged_by_index() -> None:
    stream = [
        chunk(piece(tool_calls=[call(1, "", "g", "id-g"), call(0, '{"a"', "f", "id-f")])),
        chunk(piece(tool_calls=[call(0, ": 1"), call(1, "{}")])),
        chunk(piece(tool_calls=[call(0, "}")], finish_reason="tool_calls")),
    ]
    choice = fold(stream).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert [one.to_dict() for one in choice.message.tool_calls] == [
        {"id": "id-f", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
        {"id": "id-g", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]


def test_a_name_that_is_sent_again_is_not_doubled() -> None:
    stream = [chunk(piece(tool_calls=[call(0, "{", "f", "x")])), chunk(piece(tool_calls=[call(0, "}", "f", "x")]))]
    (merged,) = fold(stream).choices[0].message.tool_calls
    assert (merged.id, merged.function.name, merged.function.arguments) == ("x", "f", "{}")


def test_tool_calls_without_an_id_get_one_that_is_always_the_same() -> None:
    stream = [chunk(piece(0, tool_calls=[call(0, "{}", "f"), call(1, "{}", "f")]), piece(1, tool_calls=[call(0)]))]
    ids = [one.id for choice in fold(stream).choices for one in choice.message.tool_calls]
    assert len(set(ids)) == 3
    assert fold(stream) == fold(stream)


def test_logprobs_and_token_ids_are_joined() -> None:
    def step(text: str, token_id: int) -> ChatCompletionChunk:
        logprobs = LogprobsContent(content=[TokenLogprob(token=text, logprob=-1)])
        return chunk(piece(content=text, logprobs=logprobs, token_ids=[token_id]))

    choice = fold([chunk(piece(content="")), step("a", 1), chunk(piece(content="-")), step("b", 2)]).choices[0]
    assert choice.logprobs is not None
    assert [entry.token for entry in choice.logprobs.content] == ["a", "b"]
    assert choice.token_ids == [1, 2]


def test_logprobs_that_are_empty_are_not_null() -> None:
    assert fold([chunk(piece(logprobs=LogprobsContent()))]).choices[0].to_dict()["logprobs"] == {"content": []}


def test_usage_is_that_of_the_usage_chunk_and_no_running_count() -> None:
    running, total = Usage(completion_tokens=1), Usage(completion_tokens=9)
    assert fold([chunk(usage=total), chunk(piece(content="x"), usage=running)]).usage == total
    assert fold([chunk(piece(content="x"), usage=running)]).usage is None


def test_what_belongs_to_the_prompt() -> None:
    scores = [None, {"5": PromptLogprob(logprob=-1, rank=1, decoded_token="x")}]
    folded = fold([chunk(piece(content="x"), prompt_token_ids=[4, 5]), chunk(prompt_logprobs=scores)])
    assert folded.prompt_logprobs == scores
    assert folded.to_dict()["prompt_token_ids"] == [4, 5]
    assert "prompt_token_ids" not in fold([chunk(piece(content="x"))]).to_dict()


@pytest.mark.parametrize("reason", ["stop", 7, "", None])
def test_stop_reason(reason: str | int | None) -> None:
    last = piece(finish_reason="stop", stop_reason=reason)
    # A flush may follow the piece that ended the choice.
    assert fold([chunk(last), chunk(piece(content="x"))]).choices[0].stop_reason == reason


def test_a_stream_that_broke_off_has_no_finish_reason() -> None:
    assert fold([chunk(piece(content="x"))]).choices[0].finish_reason is None


def test_a_stream_without_chunks_is_an_error() -> None:
    with pytest.raises(EngineError, match="before its first chunk"):
        fold([])


def test_fold_changes_none_of_its_chunks() -> None:
    logprobs = LogprobsContent(content=[TokenLogprob(token="a", logprob=-1)])
    stream = [chunk(piece(content="a", logprobs=logprobs, token_ids=[1], tool_calls=[call(0, "{")])) for _ in range(3)]
    before = [one.to_dict() for one in stream]
    assert fold(stream) == fold(stream)
    assert [one.to_dict() for one in stream] == before


def _seconds(size: int) -> float:
    stream = [chunk(piece(content="x" * 50, token_ids=[1], tool_calls=[call(0, "y" * 50)])) for _ in range(size)]
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        fold(stream)
        best = min(best, time.perf_counter() - start)
    return best


def test_time_is_linear_in_the_size_of_the_stream() -> None:
    # Ten times the stream takes about ten times as long; quadratic would be a hundred times.
    assert _seconds(20_000) < 40 * _seconds(2_000)
