"""What surrounds the text of an answer: streams, ids, usage, lists of requests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chatplan import Chat, ModelNotFoundError, fold

ASK = [{"role": "user", "content": "What is the capital of France?"}]
STREAMED: list[dict[str, Any]] = [
    {"temperature": 0, "max_tokens": 12},
    {"seed": 3, "temperature": 1.2, "max_tokens": 6, "n": 2},
    {"temperature": 0, "max_tokens": 30, "force": [*range(64, 80)], "stop": ["fgh", "zzz"]},
    {"temperature": 0, "max_tokens": 4, "logprobs": True, "top_logprobs": 2, "return_token_ids": True},
]


@pytest.mark.parametrize("fields", STREAMED, ids=str)
def test_a_stream_is_its_answer_in_pieces(tiny: Chat, fields: dict[str, Any]) -> None:
    whole = tiny.complete(ASK, **fields)
    chunks = list(tiny.stream(ASK, **fields))
    n = fields.get("n", 1)
    assert [choice.to_dict() for choice in fold(chunks).choices] == [same(choice.to_dict()) for choice in whole.choices]
    for chunk in chunks[:n]:
        assert chunk.choices[0].delta.to_dict() == {"role": "assistant", "content": ""}
    for index in range(n):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
        assert [choice.finish_reason is not None for choice in own] == [False] * (len(own) - 1) + [True]
        assert [choice.delta.role for choice in own[1:]] == [None] * (len(own) - 1)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert all("usage" not in chunk.to_dict() and chunk.choices for chunk in chunks)


def same(choice: dict[str, Any]) -> dict[str, Any]:
    """``choice`` with room for the last digits of its log-probabilities."""
    for entry in (choice["logprobs"] or {"content": []})["content"]:
        for item in (entry, *entry["top_logprobs"]):
            item["logprob"] = pytest.approx(item["logprob"], abs=1e-4)
    return choice


def test_usage_of_a_stream(tiny: Chat) -> None:
    fields: dict[str, Any] = {"seed": 3, "max_tokens": 4, "n": 2, "ignore_eos": True}
    whole = tiny.complete(ASK, **fields).usage
    *chunks, last = tiny.stream(ASK, stream_options={"include_usage": True}, **fields)
    assert last.choices == []
    assert last.usage == whole
    assert whole is not None
    assert whole.completion_tokens == 8
    assert all(chunk.usage is None for chunk in chunks)


def test_running_usage_of_a_stream(tiny: Chat) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = tiny.stream(ASK, stream_options=options, temperature=0, max_tokens=5, force=[*range(64, 69)])
    assert last.usage is not None
    counts = [chunk.usage.completion_tokens if chunk.usage else None for chunk in chunks]
    assert counts == [0, 1, 2, 3, 4, 5]
    assert {chunk.usage and chunk.usage.prompt_tokens for chunk in [*chunks, last]} == {
        len(tiny.plan(ASK).prompt.token_ids)
    }
    assert last.usage.total_tokens == last.usage.prompt_tokens + 5


def test_no_usage_unless_asked_for(tiny: Chat) -> None:
    options = {"include_usage": False}
    assert all(chunk.choices for chunk in tiny.stream(ASK, stream_options=options, max_tokens=2))


def test_ids_and_names(tiny: Chat) -> None:
    answer = tiny.complete(ASK, max_tokens=1, request_id="mine", model="tiny", user="somebody")
    assert (answer.id, answer.object, answer.model) == ("chatcmpl-mine", "chat.completion", "tiny")
    first, second = tiny.complete_batch([ASK, ASK], max_tokens=1)
    assert first.id != second.id
    assert first.id.startswith("chatcmpl-")
    with pytest.raises(ModelNotFoundError) as caught:
        tiny.complete(ASK, model="gpt-4")
    assert (caught.value.param, caught.value.status) == ("model", 404)


def test_both_names_of_a_model_are_its_own(tiny: Chat) -> None:
    for name in ("tests/tiny", "tiny", None):
        tiny.plan(ASK, model=name)
    for name in ("tests", "other/tiny", ""):
        with pytest.raises(ModelNotFoundError):
            tiny.plan(ASK, model=name)


def test_token_ids_beside_the_text(tiny: Chat) -> None:
    tokens = [*range(64, 70), 257]
    answer = tiny.complete(ASK, temperature=0, force=tokens, max_tokens=12, return_token_ids=True)
    assert answer.choices[0].token_ids == tokens
    assert tuple(answer.prompt_token_ids or ()) == tiny.plan(ASK).prompt.token_ids
    plain = tiny.complete(ASK, max_tokens=1).to_dict()
    assert "prompt_token_ids" not in plain
    assert "token_ids" not in plain["choices"][0]


LIST: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0},
    {"messages": ASK, "seed": 1, "temperature": 1.3},
    {"messages": [{"role": "user", "content": "Count to ten. " * 6}], "temperature": 0, "frequency_penalty": 1.0},
    {"messages": ASK, "temperature": 0, "stop": ["b"]},
    {"messages": [{"role": "user", "content": "Why?"}], "seed": 2, "top_p": 0.8, "max_tokens": 3},
    {"messages": ASK, "seed": 1, "temperature": 1.3, "n": 2},
]


@pytest.mark.parametrize("size", [2, 4])
def test_a_list_is_answered_in_order_and_as_each_alone(new_chat: Callable[..., Chat], size: int) -> None:
    chat = new_chat(batch_size=size, defaults={"max_tokens": 6, "return_token_ids": True})
    together = chat.complete_batch(LIST)
    alone = [chat.complete(request) for request in LIST]
    assert len({str(choice.token_ids) for answer in alone for choice in answer.choices}) > 4
    for one, other in zip(together, alone, strict=True):
        assert [choice.to_dict() for choice in one.choices] == [choice.to_dict() for choice in other.choices]
        assert one.usage == other.usage
