"""The grammar backend on llguidance: what it takes, what it lets through, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import AddedToken
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from chatplan import ChatPipeline, ModelInfo
from chatplan.guided.backend import CannotEnforce, Grammar
from chatplan.guided.constraint import Constraint
from chatplan.hooks.guidance import GuidanceBackend, grammar_backend
from chatplan.standin import stand_in

MODEL = stand_in()


@lru_cache
def backend_of(model: ModelInfo) -> GuidanceBackend:
    made = grammar_backend(model)
    assert isinstance(made, GuidanceBackend)
    return made


def made(kind: Any, value: Any, model: ModelInfo = MODEL, **more: Any) -> Grammar:
    text = value if kind in ("regex", "grammar") else json.dumps(value)
    return backend_of(model).compile(Constraint(kind, text, **more))


def refusal(kind: Any, value: Any, **more: Any) -> CannotEnforce:
    with pytest.raises(CannotEnforce) as caught:
        made(kind, value, **more)
    return caught.value


def bits(mask: torch.Tensor) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")).tolist())


def reading(grammar: Grammar, text: str, model: ModelInfo = MODEL) -> str:
    """Token by token: ``no``, or whether the answer may ``end`` there or needs ``more``. No name is a special token."""
    matcher, mask = grammar.start(), torch.zeros((model.logits_width + 31) // 32, dtype=torch.int32)
    special = set(model.tokens.special) - set(model.eos_token_ids)
    nothing = set(range(len(model.tokenizer), 32 * len(mask)))
    for token in [*model.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True), None]:
        matcher.fill(mask)
        allowed = bits(mask)
        assert not allowed & special
        assert not allowed & nothing
        if token is None:
            break
        if token not in allowed:
            with pytest.raises(ValueError, match="does not match"):
                matcher.accept(token)
            return "no"
        matcher.accept(token)
    ends = {token for token in model.eos_token_ids if token < model.logits_width}
    assert allowed & ends in (ends, set())
    return "end" if allowed & ends else "more"


# --- texts ------------------------------------------------------------------------------------------------------------

OBJECT = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
TEXTS: list[tuple[str, Any, list[str], list[str], list[str]]] = [  # kind, value, whole, needing more, wrong
    ("json", OBJECT, ['{"a": 1}', '{"a":1}', '{ "a" : -10 }'], ["", '{"a"', '{"a": 1'], ['{"b"', '{"a": 1.', '{  "']),
    ("json", {"enum": ["é", 1, None]}, ['"é"', "1", "null"], ['"'], ['"e', "2"]),
    ("json", {"const": "a\x00\"\\/<|im_end|>"}, ['"a\\u0000\\"\\\\/<|im_end|>"'], ['"a\\u0000'], ['"a\x00']),
    ("json", True, ["[1, {}]", "null"], ["["], ["x"]),
    ("json", {"type": "string", "pattern": "^[0-9]{2}$"}, ['"12"'], ['"1'], ['"1"', '"123']),
    ("json", {"properties": {"<|im_start|>": {}}, "required": ["<|im_start|>"], "type": "object"},
     ['{"<|im_start|>": 1}'], ["{"], ["1", "{}"]),
    ("regex", "a/b", ["a/b"], ["a"], ["ab"]),
    ("regex", r"a\/b", ["a/b"], [], ["a\\"]),
    ("regex", "a\nb", ["a\nb"], ["a"], ["ab", "a\\n"]),
    ("regex", r"a\nb", ["a\nb"], ["a"], ["ab"]),
    ("regex", "^ab$", ["ab"], ["a"], ["^ab"]),
    ("regex", "ab$|^c", ["ab", "c"], ["a"], ["abc"]),
    ("regex", r"\d+", ["12"], [""], ["٣", "x"]),
    ("regex", r"[\d.]+", ["1.2"], [""], ["٣"]),
    ("regex", r"a.b", ["axb", "aéb"], ["a"], ["a\nb"]),
    ("regex", r"(?s)a.b", ["a\nb"], ["a"], ["b"]),
    ("regex", "(?i)ab", ["AB", "aB"], ["A"], ["b"]),
    ("regex", "(?P<year>[0-9]{4})", ["2024"], ["202"], ["20245"]),
    ("regex", "é|😀", ["é", "😀"], [""], ["e"]),
    ("regex", "\x00", ["\x00"], [""], ["0"]),
    ("regex", "", [""], [], ["a"]),
    ("regex", "a*", ["", "aaa"], [], ["b"]),
    ("regex", r"a<\|im_end\|>b", ["a<|im_end|>b"], ["a", "a<|im_end|>"], ["ab"]),
    ("choice", ["yes", "no"], ["yes", "no"], ["", "ye"], ["x", "yesno", "Yes"]),
    ("choice", ["a", "ab", "abc"], ["a", "ab", "abc"], [""], ["b", "abcd"]),
    ("choice", ["", "a"], ["", "a"], [], ["b"]),
    ("choice", [""], [""], [], ["a"]),
    ("choice", ["a", "a"], ["a"], [], ["aa"]),
    ("choice", ["é", "日本", "😀", "😁"], ["é", "日本", "😀", "😁"], ["日"], ["e", "😂"]),
    ("choice", ["\x00", "a\x00b"], ["\x00", "a\x00b"], ["a"], ["ab"]),
    ("choice", ['"\\/\n\t'], ['"\\/\n\t'], ['"'], ["\\"]),
    ("choice", ["a|b", ".*"], ["a|b", ".*"], ["a"], ["b", "x"]),
    ("choice", ["a<|im_end|>b", "<|im_start|>"], ["a<|im_end|>b", "<|im_start|>"], ["a", "a<|im_end|>"], ["b"]),
    ("grammar", 'start: "a" start | "b"', ["b", "aab"], ["", "aa"], ["ba"]),
    ("grammar", 'start: start "a" | "a"', ["a", "aaa"], [""], ["b"]),
    ("grammar", 'start: a*\na: ""', [""], [], ["a"]),
    ("structural_tag", {"type": "const_string", "value": "a"}, ["a"], [""], ["b"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "whole", "more", "wrong"), TEXTS, ids=lambda value: str(value)[:40])
def test_texts(kind: str, value: Any, whole: list[str], more: list[str], wrong: list[str]) -> None:
    grammar = made(kind, value)
    assert {text: reading(grammar, text) for text in whole} == dict.fromkeys(whole, "end")
    assert {text: reading(grammar, text) for text in more} == dict.fromkeys(more, "more")
    assert {text: reading(grammar, text) for text in wrong} == dict.fromkeys(wrong, "no")
    assert grammar.size > 0


@pytest.mark.model
@pytest.mark.parametrize(("kind", "value", "whole", "more", "wrong"), TEXTS, ids=lambda value: str(value)[:40])
def test_texts_in_words(
    pipe: ChatPipeline, kind: str, value: Any, whole: list[str], more: list[str], wrong: list[str]
) -> None:
    model = pipe.chat.model
    grammar = made(kind, value, model)
    assert {text: reading(grammar, text, model) for text in whole} == dict.fromkeys(whole, "end")
    assert {text: reading(grammar, text, model) for text in wrong} == dict.fromkeys(wrong, "no")


@pytest.mark.parametrize(
    ("whitespace", "good", "bad"),
    [
        ("", ['{"a":1}'], ['{"a": 1}', '{ "a":1}']),
        ("[ ]?", ['{"a": 1}', '{ "a" :1 }'], ['{"a":  1}', '{\n"a":1}']),
        (r"\s*", ['{\n  "a":\t1\n}'], []),
        ("[\n]{0,1}", ['{\n"a":1}'], ['{ "a":1}', '{\n\n"a":1}']),
    ],
)
def test_whitespace_patterns(whitespace: str, good: list[str], bad: list[str]) -> None:
    grammar = made("json", OBJECT, whitespace=whitespace)
    assert [reading(grammar, text) for text in good] == ["end"] * len(good)
    assert [reading(grammar, text) for text in bad] == ["no"] * len(bad)


@pytest.mark.parametrize("kind", ["json", "structural_tag"])
def test_a_schema_cannot_make_itself_lenient(kind: str) -> None:
    options = {"lenient": True, "whitespace_flexible": True, "whitespace_pattern": "x*", "coerce_one_of": True}
    schema: Any = {**OBJECT, "x-guidance": options}
    form = {"type": "json_schema", "json_schema": schema} if kind == "structural_tag" else schema
    grammar = made(kind, form)
    assert [reading(grammar, text) for text in ('{"a": 1}', '{x"a":1}', '{"a":  1}')] == ["end", "no", "no"]
    with pytest.raises(CannotEnforce):
        made("json", {"type": "string", "format": "no-such-format", "minProperties": "x", "x-guidance": options})


def test_matchers_go_their_own_ways() -> None:
    grammar = made("choice", ["ab", "ac"])
    first, mask = grammar.start(), torch.zeros(9, dtype=torch.int32)
    first.accept(ord_of("a"))
    second = first.copy()
    first.accept(ord_of("b"))
    second.fill(mask)
    assert bits(mask) == {ord_of("b"), ord_of("c")}
    first.fill(mask)
    assert bits(mask) == set(MODEL.eos_token_ids)
    grammar.start().fill(mask)
    assert bits(mask) == {ord_of("a")}


def ord_of(text: str) -> int:
    (token,) = MODEL.tokenizer.encode(text, add_special_tokens=False)
    return int(token)


@pytest.mark.parametrize("token", [-1, 10_000, MODEL.eos_token_ids[0], 256])
def test_tokens_that_are_none_of_the_answer(token: int) -> None:
    with pytest.raises((ValueError, OverflowError)):
        made("choice", ["ab"]).start().accept(token)


# --- models -----------------------------------------------------------------------------------------------------------


def test_logits_wider_than_the_tokenizer() -> None:
    config: Any = SimpleNamespace(eos_token_id=None, get_text_config=lambda: SimpleNamespace(vocab_size=300))
    model = replace(MODEL, config=config)
    assert (model.logits_width, len(model.tokenizer)) == (300, 259)
    assert reading(made("regex", "(.|\n)*", model), "aé\n", model) == "end"


def test_logits_narrower_than_the_tokenizer() -> None:
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=MODEL.tokenizer.backend_tokenizer,
        eos_token="<|im_end|>",
    )
    tokenizer.add_tokens([AddedToken("<more>"), AddedToken("<special>", special=True)])
    config: Any = SimpleNamespace(eos_token_id=[257, 999], get_text_config=lambda: SimpleNamespace(vocab_size=259))
    model = ModelInfo("narrow", tokenizer, config)
    assert len(tokenizer) == 261
    assert reading(made("choice", ["aé"], model), "aé", model) == "end"


@pytest.mark.parametrize("ends", [None, [900]])
def test_a_model_without_an_end_cannot_be_constrained(ends: Any) -> None:
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=MODEL.tokenizer.backend_tokenizer)
    config: Any = SimpleNamespace(eos_token_id=ends, get_text_config=lambda: SimpleNamespace(vocab_size=300))
    with pytest.raises(CannotEnforce, match="no end-of-sequence token") as caught:
        made("choice", ["a"], ModelInfo("endless", tokenizer, config))
    assert not caught.value.wrong


def test_several_ends_are_allowed_together() -> None:
    config: Any = SimpleNamespace(eos_token_id=[257, 256], get_text_config=lambda: SimpleNamespace(vocab_size=259))
    model = replace(MODEL, config=config)
    assert model.eos_token_ids == (257, 256)
    assert reading(made("choice", ["a", "ab"], model), "a", model) == "end"


def test_tokenizers_in_python() -> None:
    model = ModelInfo("slow", ByT5Tokenizer())
    assert not hasattr(model.tokenizer, "backend_tokenizer")
    grammar = made("choice", ["a</s>b", "ac"], model)
    assert {text: reading(grammar, text, model) for text in ("a</s>b", "ac", "a", "b")} == {
        "a</s>b": "end",
        "ac": "end",
        "a": "more",
        "b": "no",
    }


# --- refusals ---------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[str, Any, str, bool, str]] = [  # kind, value, place, wrong for every backend, reason
    ("regex", "(a", "", True, "unclosed group"),
    ("regex", "a{2,1}", "", True, "repetition"),
    ("regex", "a(?=b)b", "", False, "look-around"),
    ("regex", r"\bab", "", False, "lookaround"),
    ("regex", r"(a)\1", "", False, "backreference"),
    ("regex", "a$b", "", False, "lookaround"),
    ("regex", "[a&&b]", "", False, "no text matches"),
    ("grammar", "start: x", "", True, "unknown name"),
    ("grammar", 'a: "x"', "", True, "no start rule"),
    ("grammar", "", "", True, "no start rule"),
    ("grammar", "\x00(((", "", True, "lexer error"),
    ("grammar", "start: start", "", False, "no text matches"),
    ("grammar", 'start: a\na: a "x"', "", False, "no text matches"),
    ("grammar", 'root ::= "a"', "", False, "EBNF"),
    ("json", {"properties": {"a": {"$ref": "#"}}, "required": ["a"], "type": "object"}, "", True, "no JSON text"),
    ("json", {"$ref": "#"}, "", True, "no JSON text"),
    ("json", {"$ref": "#/$defs/x"}, "/$ref", True, ""),
    ("json", {"items": {"type": "x"}}, "/items/type", True, "must be one of"),
    ("json", {"properties": {"a/b": {"pattern": "(a"}}}, "/properties/a~1b/pattern", False, ""),
    ("json", {"type": "array", "items": False, "minItems": 1}, "", True, ""),
    ("json", 3, "", True, ""),
    ("structural_tag", {"type": "nope"}, "/format", False, "type should be one of"),
]


@pytest.mark.parametrize(("kind", "value", "place", "wrong", "reason"), REFUSED, ids=lambda value: str(value)[:40])
def test_refusals_have_a_place_and_one_line(kind: str, value: Any, place: str, wrong: bool, reason: str) -> None:
    error = refusal(kind, value)
    assert (error.place, error.wrong) == (place, wrong)
    assert reason in error.reason
    assert "\n" not in str(error)
    assert len(str(error)) < 500


def test_a_whitespace_pattern_that_is_none() -> None:
    assert "unclosed group" in refusal("json", OBJECT, whitespace="(a").reason


@pytest.mark.parametrize("kind", ["json", "structural_tag"])
def test_blanks_are_checked_wherever_there_is_json(kind: str) -> None:
    form = {"type": "json_schema", "json_schema": OBJECT} if kind == "structural_tag" else OBJECT
    error = refusal(kind, form, whitespace="x?")
    assert error.wrong
    assert "more than blanks" in error.reason


@pytest.mark.parametrize("pattern", ["x?", "[ x]*", "\\S*", ".?", "[ ]|\\f", "\u00a0?"])
def test_a_whitespace_pattern_of_more_than_blanks(pattern: str) -> None:
    assert "more than blanks" in refusal("json", OBJECT, whitespace=pattern).reason


@pytest.mark.parametrize(
    "grammar",
    [
        'start: %json {"x-guidance": {"lenient": true}, "uniqueItems": true}',
        'start: %json {"x-guidance": {"coerce_one_of":true}}',
        "start: word\nword[temperature=0.7]: /a+/",
    ],
)
def test_a_grammar_cannot_say_what_nobody_honours(grammar: str) -> None:
    assert refusal("grammar", grammar).wrong


def test_an_object_has_at_most_so_many_properties() -> None:
    """Compiling takes time by the square of their number."""
    wide = {"type": "object", "properties": {f"p{at}": {"type": "null"} for at in range(3001)}}
    error = refusal("json", {"type": "array", "items": wide})
    assert error.reason == "an object has more than 3000 properties"
    assert error.wrong


def test_the_size_of_a_grammar_grows_with_its_text() -> None:
    texts = ["a" * 100, "a" * 10_000]
    assert [made("choice", [text]).size >= 400 * len(text) for text in texts] == [True, True]


def test_nested_too_deeply() -> None:
    deep = '{"items": ' * 3000 + "{}" + "}" * 3000
    with pytest.raises(CannotEnforce, match="nested too deeply"):
        backend_of(MODEL).compile(Constraint("json", deep))
