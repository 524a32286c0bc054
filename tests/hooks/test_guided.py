"""Constraints together with everything else a request may say. On the tiny model, whose tokens are bytes."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, TypeAdapter

from chatplan import Chat, ChatCompletion, RequestError, fold
from chatplan.guided.backend import Matcher
from chatplan.guided.mask import GrammarMask

ASK = [{"role": "user", "content": "Name a city."}]
EOS = 257


class City(BaseModel):
    name: Literal["Rome", "Paris"]
    size: Literal["big", "small"]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "old": {"type": "boolean"}, "rank": {"enum": [1, 2, None]}},
    "required": ["city", "old", "rank"],
    "additionalProperties": False,
}
REGEX = r"[A-Z][a-z]{2,8}, \d{2,4}"
CHOICES = ["yes", "yes, surely", "no", "é 日本", "maybe"]
GRAMMAR = 'start: NUMBER ("+" NUMBER)~1..3\nNUMBER: /[1-9][0-9]{0,2}/'
TAG = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</a>"}
LEGACY = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a"]}


def ids(chat: Chat, text: str) -> list[int]:
    return list(chat.model.tokenizer.encode(text, add_special_tokens=False))


def is_json(text: str, schema: Any = SCHEMA) -> bool:
    jsonschema.validate(json.loads(text), schema)
    return True


def is_compact(text: str) -> bool:
    return is_json(text) and " " not in text


def is_broken(text: str) -> bool:
    """JSON in several lines."""
    return is_json(text) and " " not in text and "\n" in text


def is_sum(text: str) -> bool:
    return re.fullmatch(r"[1-9]\d{0,2}(\+[1-9]\d{0,2}){1,3}", text, re.ASCII) is not None


def is_tag(text: str) -> bool:
    return text.startswith("<a>") and text.endswith("</a>") and is_json(text[3:-4])


def is_named(text: str) -> bool:
    return re.fullmatch(REGEX, text, re.ASCII) is not None


def is_city(text: str) -> bool:
    return isinstance(City.model_validate_json(text), City)


def content(answer: ChatCompletion) -> str:
    (choice,) = answer.choices
    assert choice.finish_reason == "stop"
    return str(choice.message.content)


def matcher_after(chat: Chat, token_ids: list[int], **fields: Any) -> Matcher:
    """Where the grammar of a request is after these tokens; it refuses what does not match."""
    (mask,) = (item for _, item in chat.plan(ASK, **fields).processors if isinstance(item, GrammarMask))
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
WAYS: list[tuple[dict[str, Any], Any]] = [
    ({"guided_json": SCHEMA}, is_json),
    ({"guided_json": json.dumps(SCHEMA)}, is_json),
    ({"guided_regex": REGEX}, is_named),
    ({"guided_choice": CHOICES}, CHOICES.__contains__),
    ({"guided_grammar": GRAMMAR}, is_sum),
    (named(SCHEMA), is_json),
    (named(SCHEMA, strict=True, description="a city"), is_json),
    (formatted(type="structural_tag", format=TAG), is_tag),
    (structured(json=SCHEMA), is_json),
    (structured(json=SCHEMA, disable_any_whitespace=True), is_compact),
    (structured(json=OPEN, disable_additional_properties=True), is_json),
    (structured(json=SCHEMA, whitespace_pattern="\n"), is_broken),
    (structured(regex=REGEX), is_named),
    (structured(choice=CHOICES), CHOICES.__contains__),
    (structured(grammar=GRAMMAR), is_sum),
    (structured(structural_tag=TAG), is_tag),
    (structured(structural_tag=json.dumps({"type": "structural_tag", "format": TAG})), is_tag),
    ({"guided_json": SCHEMA, "guided_whitespace_pattern": "\n"}, is_broken),
    ({**formatted(type="structural_tag", format=TAG), "guided_whitespace_pattern": ""}, is_tag),
    ({"guided_json": City}, is_city),
    (structured(json=City), is_city),
]


@pytest.fixture(scope="module")
def answers(tiny: Chat) -> list[ChatCompletion]:
    """What comes of all of them in one batch, so that neighbours have other constraints."""
    requests = [{"messages": ASK, "seed": at, "temperature": 1, **fields} for at, (fields, _) in enumerate(WAYS)]
    return tiny.complete_batch(requests, max_tokens=90)


@pytest.mark.parametrize("at", range(len(WAYS)), ids=lambda at: f"{at}-{next(iter(WAYS[at][0]))}")
def test_every_way_to_ask_for_a_constraint(answers: list[ChatCompletion], at: int) -> None:
    assert WAYS[at][1](content(answers[at]))


def test_seeds_hold_whatever_the_neighbours_must_match(tiny: Chat, answers: list[ChatCompletion]) -> None:
    for at, (fields, _) in enumerate(WAYS[:5]):
        assert content(tiny.complete(ASK, seed=at, temperature=1, max_tokens=90, **fields)) == content(answers[at])


def test_plain_text_is_no_constraint(tiny: Chat) -> None:
    assert not any(isinstance(item, GrammarMask) for _, item in tiny.plan(ASK, **formatted(type="text")).processors)


@pytest.mark.parametrize("fields", [formatted(type="json_object"), structured(json_object=True)], ids=str)
def test_json_objects(tiny: Chat, fields: dict[str, Any]) -> None:
    short = {"logit_bias": {str(token): 20 for token in ids(tiny, "}")}}
    assert isinstance(json.loads(content(tiny.complete(ASK, temperature=0, max_tokens=40, **fields, **short))), dict)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        formatted(type="text"),
        {"guided_regex": "a"},
        {"guided_choice": ["a"]},
        {"guided_grammar": 'start: "a"'},
        structured(regex="a"),
        structured(choice=["a"]),
        structured(grammar='start: "a"'),
    ],
    ids=str,
)
@pytest.mark.parametrize("pattern", ["", "[ ]?"])
def test_a_whitespace_pattern_needs_json(tiny: Chat, fields: dict[str, Any], pattern: str) -> None:
    with pytest.raises(RequestError, match="only acts on JSON") as caught:
        tiny.plan(ASK, guided_whitespace_pattern=pattern, **fields)
    assert caught.value.param == "guided_whitespace_pattern"


def test_structures_may_stay_away(tiny: Chat) -> None:
    fields: dict[str, Any] = {**formatted(type="structural_tag", **LEGACY), "max_tokens": 90}
    found = content(tiny.complete(ASK, force=ids(tiny, 'Hi <a>{"city": "Rome",'), temperature=0, stop="</a>", **fields))
    assert found.startswith('Hi <a>{"city": "Rome",')
    assert is_json(found.removeprefix("Hi <a>"))
    assert content(tiny.complete(ASK, force=[*ids(tiny, "Hi"), EOS], temperature=0, **fields)) == "Hi"


def test_lists_of_models(tiny: Chat) -> None:
    text = '[{"name": "Rome", "size": "big"}]'
    fields: dict[str, Any] = {"force": [*ids(tiny, text), EOS], "temperature": 0, "max_tokens": 60}
    found = content(tiny.complete(ASK, guided_json=list[City], **fields))
    assert TypeAdapter(list[City]).validate_json(found) == [City(name="Rome", size="big")]


def test_two_constraints_are_refused_by_name(tiny: Chat) -> None:
    with pytest.raises(RequestError, match="only one constraint .* got guided_json, guided_regex"):
        tiny.plan(ASK, guided_json=SCHEMA, guided_regex="a")
    with pytest.raises(RequestError, match="only one constraint .* got guided_choice, response_format"):
        tiny.plan(ASK, guided_choice=["a"], **formatted(type="json_object"))


def test_ignore_eos_is_refused(tiny: Chat) -> None:
    with pytest.raises(RequestError, match="guided_choice says where the answer ends") as caught:
        tiny.plan(ASK, guided_choice=["a"], ignore_eos=True)
    assert caught.value.param == "ignore_eos"


# --- together with other fields ---------------------------------------------------------------------------------------


def test_several_choices(tiny: Chat) -> None:
    answer = tiny.complete(ASK, n=4, guided_regex=REGEX, temperature=1.5, seed=1, max_tokens=30)
    texts = [str(choice.message.content) for choice in answer.choices]
    assert all(map(is_named, texts))
    assert len(set(texts)) == 4


def test_the_best_of_several(tiny: Chat) -> None:
    fields: dict[str, Any] = {"guided_choice": CHOICES, "temperature": 1.5, "seed": 1, "max_tokens": 20}
    answer = tiny.complete(ASK, n=2, best_of=5, **fields)
    assert len(answer.choices) == 2
    assert all(choice.message.content in CHOICES for choice in answer.choices)


def test_beam_search(tiny: Chat) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "max_tokens": 70, "temperature": 0}
    found = [str(choice.message.content) for choice in tiny.complete(ASK, n=3, guided_json=SCHEMA, **fields).choices]
    assert all(map(is_json, found))
    choices = tiny.complete(ASK, n=4, guided_choice=CHOICES, return_token_ids=True, **fields).choices
    assert {choice.message.content for choice in choices} <= set(CHOICES)
    assert len({tuple(choice.token_ids or ()) for choice in choices}) == 4


@pytest.mark.parametrize("choices", [["only one way to say it"], ["1", "2"]])
def test_more_beams_than_answers_that_match(tiny: Chat, choices: list[str]) -> None:
    with pytest.raises(RequestError, match="fewer than 3 answers match") as caught:
        tiny.complete(ASK, n=3, use_beam_search=True, guided_choice=choices, max_tokens=30, temperature=0)
    assert caught.value.param == "n"


def test_beams_that_end_at_a_stop_token(tiny: Chat) -> None:
    (stop,) = ids(tiny, "+")
    grammar = 'start: "1+" /[2-9]{6}/ | "34+1" | "5678+1"'
    answer = tiny.complete(ASK, n=2, use_beam_search=True, guided_grammar=grammar, stop_token_ids=[stop],
                           max_tokens=20, temperature=0)  # fmt: skip
    assert {choice.stop_reason for choice in answer.choices} == {stop}
    assert {choice.message.content for choice in answer.choices} < {"1", "34", "5678"}


def test_logprobs_are_of_what_the_grammar_allows(tiny: Chat) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 5, "logprobs": True, "top_logprobs": 3}
    answer = tiny.complete(ASK, guided_choice=["yes", "no"], **fields)
    (choice,) = answer.choices
    assert choice.logprobs is not None
    entries = choice.logprobs.content
    assert "".join(entry.token for entry in entries).removesuffix("<|im_end|>") == content(answer)
    assert entries[0].logprob < -1e-3  # two ways to begin
    assert [entry.logprob for entry in entries[1:]] == pytest.approx([0] * (len(entries) - 1), abs=1e-5)
    ruled_out = [other.logprob for entry in entries[1:] for other in entry.top_logprobs if other.token != entry.token]
    assert set(ruled_out) == {-9999.0}


@pytest.mark.parametrize("least", [5, 6])
def test_min_tokens_keeps_the_answer_going(tiny: Chat, least: int) -> None:
    bias = {"logit_bias": {str(EOS): 100}}
    fields: dict[str, Any] = {"guided_regex": "(?:ab)*", "max_tokens": 12, "temperature": 0, **bias}
    assert content(tiny.complete(ASK, **fields)) == ""
    assert content(tiny.complete(ASK, min_tokens=least, **fields)) == "ababab"


def test_a_grammar_that_ends_earlier_wins_over_min_tokens(tiny: Chat) -> None:
    fields: dict[str, Any] = {"min_tokens": 10, "max_tokens": 20, "temperature": 0}
    assert content(tiny.complete(ASK, guided_choice=["yes", "no"], **fields)) in ("yes", "no")


def test_stop_strings(tiny: Chat) -> None:
    (choice,) = tiny.complete(ASK, guided_json=SCHEMA, stop=['",'], temperature=0, max_tokens=60,
                              guided_whitespace_pattern="").choices  # fmt: skip
    assert (choice.finish_reason, choice.stop_reason) == ("stop", '",')
    assert re.fullmatch(r'\{"city":"(Paris|Rome)', str(choice.message.content))


@pytest.mark.parametrize("fields", [WAYS[at][0] for at in (0, 3, 4)], ids=lambda fields: next(iter(fields)))
def test_a_stream_is_its_answer_in_pieces(tiny: Chat, fields: dict[str, Any]) -> None:
    fields = {**fields, "seed": 4, "temperature": 1, "max_tokens": 90}
    chunks = list(tiny.stream(ASK, **fields))
    assert len(chunks) > 2
    assert fold(chunks).choices == tiny.complete(ASK, **fields).choices


def test_the_constraint_is_on_what_is_added_to_a_message(tiny: Chat) -> None:
    begun = [*ASK, {"role": "assistant", "content": '{"city": "'}]
    fields: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False, "temperature": 0}
    assert content(tiny.complete(begun, guided_choice=["Rome", "Paris"], max_tokens=9, **fields)) in ("Rome", "Paris")
    assert is_json(content(tiny.complete(begun, guided_json=SCHEMA, max_tokens=70, **fields)))


@pytest.mark.parametrize("count", [1, 2, 9])
def test_answers_that_are_cut_off(tiny: Chat, count: int) -> None:
    fields: dict[str, Any] = {"guided_json": SCHEMA, "temperature": 1, "seed": count}
    (choice,) = tiny.complete(ASK, max_tokens=count, return_token_ids=True, **fields).choices
    assert choice.token_ids is not None
    assert (choice.finish_reason, len(choice.token_ids)) == ("length", count)
    matcher_after(tiny, choice.token_ids, **fields)


def test_fields_that_forbid_tokens(tiny: Chat) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 9, "guided_choice": ["yes", "no"]}
    first = content(tiny.complete(ASK, **fields))
    other = {"yes": "no", "no": "yes"}[first]
    (begin,) = ids(tiny, first[0])
    assert content(tiny.complete(ASK, bad_words=[first[0]], **fields)) == other
    assert content(tiny.complete(ASK, logit_bias={str(begin): -100}, **fields)) == other
    assert content(tiny.complete(ASK, logit_bias={str(ids(tiny, "m")[0]): 100}, **fields)) == first
    assert content(tiny.complete(ASK, allowed_token_ids=[*ids(tiny, other), EOS], **fields)) == other


def test_fields_that_forbid_all_that_matches(tiny: Chat) -> None:
    with pytest.raises(RequestError, match="leave none to choose from"):
        tiny.complete(ASK, guided_choice=["yes"], allowed_token_ids=ids(tiny, "no"), max_tokens=5)


def test_special_tokens_named_by_the_constraint_are_text(tiny: Chat) -> None:
    texts = ["<|im_end|>.", "a<|im_start|>b"]
    fields: dict[str, Any] = {"temperature": 2, "seed": 5, "max_tokens": 30, "return_token_ids": True}
    for choice in tiny.complete(ASK, n=3, guided_choice=texts, **fields).choices:
        assert choice.message.content in texts
        assert choice.token_ids is not None
        assert max(choice.token_ids[:-1]) < 256
