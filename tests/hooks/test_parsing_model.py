"""Reasoning and calls of a model: tokens, marks that are tokens, and what comes beside the text."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from chatplan import Chat
from chatplan.folding import fold
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only
ASK = [{"role": "user", "content": "Hi"}]
EOS = 257
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name in ("f", "g")
]
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
# What the family is known by; the tokens of the tiny model are bytes.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}{{ tools }}assistant:"
    '{# <think> </think> <tool_call> "arguments" #}'
)
CALL = '<tool_call>{"name": "f", "arguments": {"x": "é"}}</tool_call>'
CLOCK = '<tool_call>{"name": "g", "arguments": {}}</tool_call>'
ANSWER = f"<think>Hm.</think>Wait.{CALL}{CLOCK}"


def tokenizer_with(marks: tuple[str, ...] = ()) -> Any:
    """A byte tokenizer, of whose special tokens some are marks."""
    from tokenizers import AddedToken

    tokenizer = copy.deepcopy(stand_in().tokenizer)
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in marks], special_tokens=True)
    return tokenizer


@pytest.fixture(scope="module")
def plain(new_chat: Callable[..., Chat]) -> Chat:
    """Marks are text."""
    return new_chat(tokenizer=tokenizer_with())


@pytest.fixture(scope="module")
def marked(new_chat: Callable[..., Chat]) -> Chat:
    """Marks are special tokens, which are left out of text."""
    return new_chat(tokenizer=tokenizer_with(MARKS))


def forced(chat: Chat, text: str = ANSWER, **fields: Any) -> dict[str, Any]:
    given = {"messages": ASK, "tools": TOOLS, "parallel_tool_calls": True, "temperature": 0, **fields}
    ids = chat.model.tokenizer.encode(text, add_special_tokens=False)
    return {"force": [*ids, EOS], "max_tokens": len(ids) + 1, **given}


def message(chat: Chat, text: str = ANSWER, **fields: Any) -> Any:
    return chat.complete(forced(chat, text, **fields)).choices[0].message


def calls(answer: Any) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in answer.tool_calls]


BOTH = [("f", '{"x": "é"}'), ("g", "{}")]


def test_marks_that_are_tokens_reach_the_parser(plain: Chat, marked: Chat) -> None:
    assert len(marked.model.tokenizer.encode("<think>", add_special_tokens=False)) == 1
    for chat, skip in ((plain, True), (marked, True), (marked, False)):
        answer = message(chat, skip_special_tokens=skip)
        assert (answer.reasoning_content, answer.content, calls(answer)) == ("Hm.", "Wait.", BOTH)


def test_tokens_that_mark_nothing_are_left_out(marked: Chat) -> None:
    text = f"<think>H<|im_start|>m.</think>W<|im_start|>ait.{CALL}"
    answer = message(marked, text)
    assert (answer.reasoning_content, answer.content, calls(answer)) == ("Hm.", "Wait.", BOTH[:1])
    assert message(marked, text, skip_special_tokens=False).content == "W<|im_start|>ait."


def test_marks_are_left_out_where_nothing_is_parsed(marked: Chat) -> None:
    assert message(marked, f"Wait.{CALL}", tools=None).content == f"Wait.{CALL[11:-12]}"


@pytest.mark.parametrize("fields", [{}, {"parallel_tool_calls": False}, {"stop": ["x"]}, {"logprobs": True}, {"n": 2}])
def test_a_stream_is_the_same_in_pieces(marked: Chat, fields: dict[str, Any]) -> None:
    request = forced(marked, **fields, return_token_ids=True)
    whole, chunks = marked.complete(request), list(marked.stream(request))
    folded = fold(chunks)
    for one, other in zip(whole.choices, folded.choices, strict=True):
        assert calls(one.message) == calls(other.message)
        for call in (*one.message.tool_calls, *other.message.tool_calls):
            call.id = ""
    assert folded.choices == whole.choices
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == [choice.finish_reason for choice in whole.choices]


def test_deltas_of_a_stream(plain: Chat) -> None:
    deltas = [choice.delta for chunk in plain.stream(forced(plain)) for choice in chunk.choices]
    first = [call for delta in deltas for call in delta.tool_calls or () if call.id is not None]
    assert [(call.index, call.type, call.function and call.function.name) for call in first] == [
        (0, "function", "f"),
        (1, "function", "g"),
    ]
    kinds = [key for delta in deltas for key in delta.to_dict() if delta.to_dict()[key]]
    assert list(dict.fromkeys(kinds)) == ["role", "reasoning_content", "content", "tool_calls"]
    assert sum(bool(delta.tool_calls) for delta in deltas) > 9  # bit by bit


def test_token_ids_and_logprobs_are_of_all_tokens(plain: Chat) -> None:
    request = forced(plain, logprobs=True, top_logprobs=1, return_token_ids=True)
    choice = plain.complete(request).choices[0]
    assert choice.token_ids == request["force"]
    assert choice.logprobs is not None
    written = b"".join(bytes(entry.bytes or []) for entry in choice.logprobs.content)
    assert written.decode() == ANSWER + "<|im_end|>"
    assert (choice.finish_reason, choice.stop_reason) == ("tool_calls", None)


STOPS: list[tuple[str, tuple[str, str, list[tuple[str, str]]], str]] = [
    ("</tool_call>", ("Hm.", "Wait.", BOTH[:1]), "tool_calls"),
    ("Wait", ("Hm.", "", []), "stop"),
    ("m.", ("H", "", []), "stop"),
    ("x", ("Hm.", "Wait.", [("f", '{"')]), "tool_calls"),
    ("name", ("Hm.", 'Wait.<tool_call>{"', []), "stop"),
]


@pytest.mark.parametrize(("stop", "parts", "reason"), STOPS)
def test_stop_strings_act_on_the_whole_text(plain: Chat, stop: str, parts: tuple[Any, ...], reason: str) -> None:
    choice = plain.complete(forced(plain, stop=[stop])).choices[0]
    answer = choice.message
    assert (answer.reasoning_content or "", answer.content or "", calls(answer)) == parts
    assert (choice.finish_reason, choice.stop_reason) == (reason, stop)


def test_each_choice_has_calls_of_its_own(marked: Chat) -> None:
    ids = [call.id for choice in marked.complete(forced(marked, n=2)).choices for call in choice.message.tool_calls]
    assert len(set(ids)) == len(ids) >= 2


def test_an_answer_of_calls_only_has_no_content(plain: Chat) -> None:
    """As OpenAI and vLLM have it: null, not an empty string."""
    assert message(plain, CALL).content is None
    assert message(plain, CALL).to_dict()["content"] is None
    assert message(plain, "").content == ""


def test_reasoning_may_be_left_out(plain: Chat) -> None:
    answer = message(plain, include_reasoning=False)
    assert "reasoning_content" not in answer.to_dict()
    assert (answer.content, calls(answer)) == ("Wait.", BOTH)


def test_parsing_may_be_switched_off(new_chat: Callable[..., Chat]) -> None:
    chat = new_chat(tokenizer=tokenizer_with(), disable=["parsing"])
    assert message(chat).content == ANSWER
