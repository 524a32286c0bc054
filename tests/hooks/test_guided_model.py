"""Constraints on the real model, whose tokens are words and parts of characters; the rest is in ``test_guided.py``."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import pytest

from chatplan import ChatPipeline
from chatplan.guided.backend import Matcher
from chatplan.guided.mask import GrammarMask

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "Name a city, its country and how many people live there."}]
EOS = 2
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "old": {"type": "boolean"}, "rank": {"enum": [1, 2, None]}},
    "required": ["city", "old", "rank"],
    "additionalProperties": False,
}
SHORT = {"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 3}
CHOICES = ["yes", "yes, surely", "no", "é 日本", "maybe"]
GRAMMAR = 'start: sum\nsum: NUMBER | sum "+" NUMBER\nNUMBER: /[1-9][0-9]{0,2}/'
TAG = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</a>"}


def ids(pipe: ChatPipeline, text: str) -> list[int]:
    return list(pipe.chat.model.tokenizer.encode(text, add_special_tokens=False))


def is_json(text: str, schema: Any = SCHEMA) -> bool:
    jsonschema.validate(json.loads(text), schema)
    return True


def is_tag(text: str) -> bool:
    return text.startswith("<a>") and text.endswith("</a>") and is_json(text[3:-4])


def content(answer: Any) -> str:
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    return str(choice.message.content)


def matcher_after(pipe: ChatPipeline, token_ids: list[int], **fields: Any) -> Matcher:
    """Where the grammar of a request is after these tokens; it refuses what does not match."""
    (mask,) = (item for _, item in pipe.plan(ASK, **fields).processors if isinstance(item, GrammarMask))
    matcher = mask.grammar.start()
    for token in token_ids:
        matcher.accept(token)
    return matcher


WISHES: list[tuple[dict[str, Any], Any]] = [
    ({"guided_choice": CHOICES}, CHOICES.__contains__),
    ({"guided_regex": r"\d{3}-[A-F]+"}, lambda text: re.fullmatch(r"[0-9]{3}-[A-F]+", text)),
    ({"guided_json": SCHEMA}, is_json),
    ({"guided_grammar": GRAMMAR}, lambda text: re.fullmatch(r"[1-9][0-9]{0,2}(\+[1-9][0-9]{0,2})*", text)),
    ({"guided_json": SHORT}, lambda text: is_json(text, SHORT)),
    ({"guided_regex": "(north|south)(west|east)?"}, lambda text: re.fullmatch("(north|south)(west|east)?", text)),
    ({"guided_choice": ["a", "ab", "abc"]}, ["a", "ab", "abc"].__contains__),
    ({"response_format": {"type": "structural_tag", "format": TAG}}, is_tag),
]


def test_rows_of_one_batch_keep_to_their_own_constraints(pipe: ChatPipeline) -> None:
    """What ends by itself matches, and what is cut off can go on."""
    wishes = [wish for wish in WISHES for _ in range(2)]
    requests = [{"messages": ASK, "seed": at, "temperature": 1, **fields} for at, (fields, _) in enumerate(wishes)]
    answers = pipe(requests, max_tokens=26, return_token_ids=True)
    ended = 0
    for answer, (fields, fits) in zip(answers, wishes, strict=True):
        (choice,) = answer.choices
        if choice.finish_reason == "stop":
            assert fits(choice.message.content), choice.message.content
            ended += 1
        else:
            matcher_after(pipe, choice.token_ids, **fields)
    assert ended > len(wishes) // 2


def test_beam_search(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "max_tokens": 22, "temperature": 0}
    assert all(is_json(choice.message.content) for choice in pipe(ASK, n=2, guided_json=SCHEMA, **fields).choices)
    choices = pipe(ASK, n=4, guided_choice=CHOICES, return_token_ids=True, **fields).choices
    assert {choice.message.content for choice in choices} <= set(CHOICES)
    assert len({tuple(choice.token_ids) for choice in choices}) == 4


def test_stop_strings(pipe: ChatPipeline) -> None:
    (choice,) = pipe(ASK, guided_json=SCHEMA, stop=['",'], temperature=0, max_tokens=40).choices
    assert (choice.finish_reason, choice.stop_reason) == ("stop", '",')
    assert re.fullmatch(r'\{ ?"city" ?: ?"(Paris|Rome)', choice.message.content)


def test_fields_that_forbid_tokens(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 9, "guided_choice": ["yes", "no"]}
    first = content(pipe(ASK, **fields))
    other = {"yes": "no", "no": "yes"}[first]
    begins = [first[:length] for length in range(1, len(first) + 1)]  # it can be spelled with more tokens than one
    assert content(pipe(ASK, bad_words=begins, **fields)) == other
    assert content(pipe(ASK, allowed_token_ids=[*ids(pipe, other), EOS], **fields)) == other


def test_special_tokens_named_by_the_constraint_are_text(pipe: ChatPipeline) -> None:
    texts = ["<|im_end|>.", "a<|im_start|>b"]
    answer = pipe(ASK, n=3, guided_choice=texts, temperature=2, seed=5, max_tokens=30, return_token_ids=True)
    for choice in answer.choices:
        assert choice.message.content in texts
        assert EOS not in choice.token_ids[:-1]
