"""Answers read whole and in pieces."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from chatplan.families import AnswerFormat, read_pythonic

Calls = list[tuple[str, Any]]
Parts = tuple[str, str, Calls]


def _pieces(text: str, seed: int) -> Iterator[str]:
    chance = random.Random(seed)
    while text:
        length = chance.randint(1, 9)
        yield text[:length]
        text = text[length:]


def _call(value: Any) -> tuple[str, Any]:
    assert value["type"] == "function"
    return value["function"]["name"], value["function"]["arguments"]


def _read(answer_format: AnswerFormat, pieces: Iterable[str], prefix: str, tools: Any) -> Parts:
    from transformers.utils.chat_parsing import ResponseParser

    parser = ResponseParser(dict(answer_format.response_template), prefix=prefix, tools=tools)
    events = [*parser.initial_events, *(event for piece in pieces for event in parser.feed(piece))]
    message, last = parser.finalize()
    texts, calls = {"reasoning_content": "", "content": ""}, Calls()
    for event in events + last:
        if event["type"] == "region_chunk" and event["field"] in texts:
            texts[event["field"]] += event["text"]
        if event["type"] == "region_close" and event["field"] == "tool_calls":
            calls += _calls_of(answer_format, event["value"])
    assert all(message.get(name, "") == text for name, text in texts.items())
    return texts["reasoning_content"], texts["content"], calls


def _calls_of(answer_format: AnswerFormat, value: Any) -> Calls:
    if answer_format.pythonic:
        return [(call["name"], call["arguments"]) for call in read_pythonic(value)]
    return [_call(item) for item in (value if isinstance(value, list) else [value])]


@pytest.fixture
def read() -> Callable[..., Parts]:
    """Reads an answer whole, by characters and in random pieces, which must all give the same."""

    def parts(answer_format: AnswerFormat, text: str, prefix: str = "", tools: Any = None) -> Parts:
        whole = _read(answer_format, [text], prefix, tools)
        for pieces in (text, *(_pieces(text, seed) for seed in range(20))):
            assert _read(answer_format, pieces, prefix, tools) == whole
        return whole

    return parts
