"""Constraints together with everything else a request may say. On the real model."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, TypeAdapter

from chatplan import ChatPipeline, RequestError, fold
from chatplan.guided.backend import Matcher
from chatplan.guided.mask import GrammarMask

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "Name a city, its country and how many people live there."}]
EOS = 2


class City(BaseModel):
    name: str
    people: int
    size: Literal["big", "small"]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "old": {"type": "boolean"}, "rank": {"enum": [1, 2, None]}},
    "required": ["city", "old", "rank"],
    "additionalProperties": False,
}
REGEX = r"[A-Z][a-z]{2,8}, \d{2,4}"
CHOICES = ["yes", "yes, surely", "no", "é 日本", "maybe"]
GRAMMAR = 'start: sum\nsum: NUMBER | sum "+" NUMBER\nNUMBER: /[1-9][0-9]{0,2}/'
TAG = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</a>"}
LEGACY = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a"]}


def ids(pipe: ChatPipeline, text: str) -> list[int]:
    return list(pipe.chat.model.tokenizer.encode(text, add_special_tokens=False))


def is_json(text: str, schema: Any = SCHEMA) -> bool:
    jsonschema.validate(json.loads(text), schema)
    return True


def is_sum(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,2}(\+[1-9]\d{0,2})*", text) is not None


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


# --- every way to say it ----------------------------------------------------------------------------------------------


def structured(**keys: Any) -> dict[str, Any]:
    return {"structured_outputs": keys}


def formatted(**keys: Any) -> dict[str, Any]:
    return {"response_format": keys}


def named(schema: Any, **more: Any) -> dict[str, Any]:
    return formatted(type="json_schema", json_schema={"name": "x", "schema": schema, **more})


OPEN = {key: value for key, value in SCHEMA.items() if key != "additionalProperties"}
COMPACT = json.dumps(SCHEMA)
WAYS: list[tuple[dict[str, Any], Any]] = [
    ({"guided_json": SCHEMA}, is_json),
    ({"guided_json": json.dumps(SCHEMA)}, is_json),
    ({"guided_regex": REGEX}, lambda text: re.fullmatch(REGEX, text)),
    ({"guided_choice": CHOICES}, CHOICES.__contains__),
    ({"guided_grammar": GRAMMAR}, is_sum),
    (named(SCHEMA), is_json),
    (named(SCHEMA, strict=True, description="a city"), is_json),
    (formatted(type="structural_tag", format=TAG), is_tag),
    (structured(json=SCHEMA), is_json),
    (structured(json=SCHEMA, disable_any_whitespace=True), lambda text: is_json(text) and ": " not in text),
    (structured(json=OPEN, disable_additional_properties=True), is_json),
    (structured(json=SCHEMA, whitespace_pattern="\n"), lambda text: is_json(text) and ": " not in text),
    (structured(regex=REGEX), lambda text: re.fullmatch(REGEX, text)),
    (structured(choice=CHOICES), CHOICES.__contains__),
    (structured(grammar=GRAMMAR), is_sum),
    (structured(structural_tag=TAG), is_tag),
    (structured(structural_tag=json.dumps({"type": "structural_tag", "format": TAG})), is_tag),
    ({"guided_json": SCHEMA, "guided_whitespace_pattern": "\n"}, lambda text: is_json(text) and ": " not in text),
    ({"guided_json": City}, City.model_validate_json),
    (structured(json=City), City.model_validate_json),
]


def test_every_way_to_ask_for_a_constraint(pipe: ChatPipeline) -> None:
    """All of them in batches together, so that neighbours have other constraints."""
    requests = [{"messages": ASK, "seed": at, "temperature": 1, **fields} for at, (fields, _) in enumerate(WAYS)]
    answers = pipe(requests, max_tokens=26)
    for answer, (fields, fits) in zip(answers, WAYS, strict=True):
        text = content(answer) if answer.choices[0].finish_reason == "stop" else None
        assert text is None or fits(text), (fields, text)
    assert sum(answer.choices[0].finish_reason == "stop" for answer in answers) > len(WAYS) // 2


def test_plain_text_is_no_constraint(pipe: ChatPipeline) -> None:
    assert not any(isinstance(item, GrammarMask) for _, item in pipe.plan(ASK, **formatted(type="text")).processors)


@pytest.mark.parametrize("fields", [formatted(type="json_object"), structured(json_object=True)], ids=str)
def test_json_objects(pipe: ChatPipeline, fields: dict[str, Any]) -> None:
    short = {"logit_bias": {str(token): 20 for token in ids(pipe, "}")}}
    assert isinstance(json.loads(content(pipe(ASK, temperature=0, max_tokens=40, **fields, **short))), dict)


def test_structures_may_stay_away(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {**formatted(type="structural_tag", **LEGACY), "max_tokens": 40}
    found = content(pipe(ASK, force=ids(pipe, 'Hi <a>{"city": "Rome",'), temperature=0, stop="</a>", **fields))
    assert is_json(found.removeprefix("Hi <a>"))


def test_lists_of_models(pipe: ChatPipeline) -> None:
    text = '[{"name": "Rome", "people": 3, "size": "big"}]'
    found = content(pipe(ASK, guided_json=list[City], force=[*ids(pipe, text), EOS], temperature=0, max_tokens=40))
    assert TypeAdapter(list[City]).validate_json(found) == [City(name="Rome", people=3, size="big")]


def test_two_constraints_are_refused_by_name(pipe: ChatPipeline) -> None:
    with pytest.raises(RequestError, match="only one constraint .* got guided_json, guided_regex"):
        pipe(ASK, guided_json=SCHEMA, guided_regex="a")
    with pytest.raises(RequestError, match="only one constraint .* got guided_choice, response_format"):
        pipe(ASK, guided_choice=["a"], **formatted(type="json_object"))


def test_ignore_eos_is_refused(pipe: ChatPipeline) -> None:
    with pytest.raises(RequestError, match="guided_choice says where the answer ends") as caught:
        pipe(ASK, guided_choice=["a"], ignore_eos=True)
    assert caught.value.param == "ignore_eos"


# --- together with other fields ---------------------------------------------------------------------------------------


def test_several_choices(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, n=4, guided_regex=REGEX, temperature=1.5, seed=1, max_tokens=30)
    texts = [choice.message.content for choice in answer.choices]
    assert all(re.fullmatch(REGEX, text) for text in texts)
    assert len(set(texts)) > 1


def test_the_best_of_several(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, n=2, best_of=5, guided_choice=CHOICES, temperature=1.5, seed=1, max_tokens=20)
    assert all(choice.message.content in CHOICES for choice in answer.choices)


def test_beam_search(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "max_tokens": 22, "temperature": 0}
    found = [choice.message.content for choice in pipe(ASK, n=3, guided_json=SCHEMA, **fields).choices]
    assert all(map(is_json, found))
    choices = pipe(ASK, n=4, guided_choice=CHOICES, return_token_ids=True, **fields).choices
    assert {choice.message.content for choice in choices} <= set(CHOICES)
    assert len({tuple(choice.token_ids) for choice in choices}) == 4


@pytest.mark.parametrize("choices", [["only one way to say it"], ["1", "2"]])
def test_more_beams_than_answers_that_match(pipe: ChatPipeline, choices: list[str]) -> None:
    with pytest.raises(RequestError, match="fewer than 3 answers match") as caught:
        pipe(ASK, n=3, use_beam_search=True, guided_choice=choices, max_tokens=12, temperature=0)
    assert caught.value.param == "n"


def test_beams_that_end_at_a_stop_token(pipe: ChatPipeline) -> None:
    stop = ids(pipe, "+")[0]
    answer = pipe(ASK, n=2, use_beam_search=True, guided_grammar='start: "1+" /[2-9]{6}/ | "34+1" | "5678+1"',
                  stop_token_ids=[stop], max_tokens=20, temperature=0)  # fmt: skip
    assert {choice.stop_reason for choice in answer.choices} == {stop}
    assert {choice.message.content for choice in answer.choices} < {"1", "34", "5678"}


def test_logprobs_are_of_what_the_grammar_allows(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, guided_choice=["yes", "no"], temperature=0, max_tokens=5, logprobs=True, top_logprobs=3)
    entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries).removesuffix("<|im_end|>") == content(answer)
    assert all(entry.logprob <= 0 for entry in entries)
    assert entries[-1].logprob == pytest.approx(0, abs=1e-5)  # nothing but the end was left


def test_min_tokens_keeps_the_answer_going(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, guided_regex="(?:ab)*", min_tokens=6, max_tokens=8, temperature=0, return_token_ids=True)
    (choice,) = answer.choices
    assert len(choice.token_ids) >= 6
    assert re.match("(ab)*", choice.message.content)


def test_a_grammar_that_ends_earlier_wins_over_min_tokens(pipe: ChatPipeline) -> None:
    assert content(pipe(ASK, guided_choice=["yes", "no"], min_tokens=10, max_tokens=20, temperature=0)) in ("yes", "no")


def test_stop_strings(pipe: ChatPipeline) -> None:
    (choice,) = pipe(ASK, guided_json=SCHEMA, stop=['",'], temperature=0, max_tokens=40).choices
    assert (choice.finish_reason, choice.stop_reason) == ("stop", '",')
    assert re.fullmatch(r'\{ ?"city" ?: ?"(Paris|Rome)', choice.message.content)


@pytest.mark.parametrize("fields", [WAYS[at][0] for at in (0, 3, 4)], ids=lambda fields: next(iter(fields)))
def test_a_stream_is_its_answer_in_pieces(pipe: ChatPipeline, fields: dict[str, Any]) -> None:
    fields = {**fields, "seed": 4, "temperature": 1, "max_tokens": 20}
    whole = pipe(ASK, **fields)
    assert fold(list(pipe(ASK, stream=True, **fields))).choices == whole.choices


def test_the_constraint_is_on_what_is_added_to_a_message(pipe: ChatPipeline) -> None:
    begun = [*ASK, {"role": "assistant", "content": '{"city": "'}]
    fields: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False, "temperature": 0}
    assert content(pipe(begun, guided_choice=["Rome", "Paris"], max_tokens=9, **fields)) in ("Rome", "Paris")
    assert is_json(content(pipe(begun, guided_json=SCHEMA, max_tokens=40, **fields)))


def test_seeds_hold_whatever_the_neighbours_must_match(pipe: ChatPipeline) -> None:
    requests = [{"messages": ASK, "seed": at, "temperature": 1.3, **fields} for at, (fields, _) in enumerate(WAYS[:4])]
    together = [answer.choices[0].message.content for answer in pipe(requests, max_tokens=16)]
    alone = [pipe(request, max_tokens=16).choices[0].message.content for request in requests]
    assert together == alone


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_answers_that_are_cut_off(pipe: ChatPipeline, count: int) -> None:
    fields: dict[str, Any] = {"guided_json": SCHEMA, "temperature": 1, "seed": count}
    (choice,) = pipe(ASK, max_tokens=count, return_token_ids=True, **fields).choices
    assert (choice.finish_reason, len(choice.token_ids)) == ("length", count)
    matcher_after(pipe, choice.token_ids, **fields)


def test_fields_that_forbid_tokens(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 9, "guided_choice": ["yes", "no"]}
    first = content(pipe(ASK, **fields))
    other = {"yes": "no", "no": "yes"}[first]
    begins = [first[:length] for length in range(1, len(first) + 1)]  # it can be spelled with more tokens than one
    assert content(pipe(ASK, bad_words=begins, **fields)) == other
    assert content(pipe(ASK, logit_bias={str(ids(pipe, text)[0]): -100 for text in begins}, **fields)) == other
    assert content(pipe(ASK, logit_bias={str(ids(pipe, "maybe")[0]): 100}, **fields)) == first
    assert content(pipe(ASK, allowed_token_ids=[*ids(pipe, other), EOS], **fields)) == other


def test_fields_that_forbid_all_that_matches(pipe: ChatPipeline) -> None:
    with pytest.raises(RequestError, match="leave none to choose from"):
        pipe(ASK, guided_choice=["yes"], allowed_token_ids=ids(pipe, "no"), max_tokens=5)


def test_special_tokens_named_by_the_constraint_are_text(pipe: ChatPipeline) -> None:
    texts = ["<|im_end|>.", "a<|im_start|>b"]
    answer = pipe(ASK, n=3, guided_choice=texts, temperature=2, seed=5, max_tokens=30, return_token_ids=True)
    for choice in answer.choices:
        assert choice.message.content in texts
        assert EOS not in choice.token_ids[:-1]


# --- many at once -----------------------------------------------------------------------------------------------------


@lru_cache
def many() -> list[tuple[dict[str, Any], Any]]:
    short = {"type": "array", "items": {"enum": ["a", 1]}, "maxItems": 3}
    return [
        ({"guided_choice": CHOICES}, CHOICES.__contains__),
        ({"guided_regex": r"\d{3}-[A-F]+"}, lambda text: re.fullmatch(r"[0-9]{3}-[A-F]+", text)),
        ({"guided_json": SCHEMA}, is_json),
        ({"guided_grammar": GRAMMAR}, is_sum),
        ({"guided_json": short}, lambda text: is_json(text, short)),
        ({"guided_regex": "(north|south)(west|east)?"}, lambda text: re.fullmatch("(north|south)(west|east)?", text)),
        ({"guided_choice": ["a", "ab", "abc"]}, ["a", "ab", "abc"].__contains__),
        (formatted(type="structural_tag", format=TAG), is_tag),
    ]


def test_rows_of_one_batch_keep_to_their_own_constraints(pipe: ChatPipeline) -> None:
    """Eight constraints, four answers each: what ends by itself matches, and what is cut off can go on."""
    wishes = [wish for wish in many() for _ in range(4)]
    requests = [{"messages": ASK, "seed": at, "temperature": 1, **fields} for at, (fields, _) in enumerate(wishes)]
    answers = pipe(requests, max_tokens=26, return_token_ids=True)
    for answer, (fields, fits) in zip(answers, wishes, strict=True):
        (choice,) = answer.choices
        if choice.finish_reason == "stop":
            assert fits(choice.message.content), choice.message.content
        else:
            matcher_after(pipe, choice.token_ids, **fields)
