"""The backend `xgrammar`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from chatplan import ModelInfo
from chatplan.guided import CannotEnforce, Constraint, Grammar, GrammarBackend, Matcher
from chatplan.hooks import xgrammar
from chatplan.standin import stand_in

Accepts = Callable[[ModelInfo, Grammar, str], bool]
Allowed = Callable[[ModelInfo, Matcher], set[int]]

pytest.importorskip("xgrammar")


@pytest.fixture(scope="module")
def model() -> ModelInfo:
    """Bytes for tokens."""
    return stand_in()


@pytest.fixture(scope="module")
def backend(model: ModelInfo) -> GrammarBackend:
    found = xgrammar.grammar_backend(model)
    assert found is not None
    return found


def refused(backend: GrammarBackend, constraint: Constraint) -> CannotEnforce:
    with pytest.raises(CannotEnforce) as caught:
        backend.compile(constraint)
    assert str(caught.value)
    return caught.value


# --- each kind --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "integer", "minimum": 3, "maximum": 12}, ["3", "12"], ["2", "13", "3.5", "1e1"]),
        ({"type": "string", "pattern": "^(é|😀)a[ \\n\\r\\t]?$"}, ['"éa"', '"😀a "'], ['"ea"', '"éa\\n"']),
        ({"type": "string", "pattern": "a+"}, ['"a"', '"xay"'], ['"x"', '"a"a"']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '""']),
        ({"type": "string", "minLength": 2}, ['"ab"', '"é☕"'], ['"a"', '"a\t"']),
        (
            {"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "minItems": 2},
            ["[null, 1]"],
            ["[null]", "[1]"],
        ),
        ({"enum": ["éa", "😀a", 'q"\\', {"a": [1, "b"]}]}, ['"éa"', '"😀a"', '"q\\"\\\\"'], ['"é"', "1"]),
        (True, ["1", '{"a": [null]}'], ["", "{"]),
    ],
)
def test_schemas(
    model: ModelInfo, backend: GrammarBackend, accepts: Accepts, schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = backend.compile(Constraint.of("json", schema))
    assert all(accepts(model, grammar, text) for text in good)
    assert not any(accepts(model, grammar, text) for text in bad)


def test_grammar(model: ModelInfo, backend: GrammarBackend, accepts: Accepts) -> None:
    grammar = backend.compile(Constraint("grammar", 'root ::= "(" root ")" | "é"'))
    assert accepts(model, grammar, "((é))")
    assert not accepts(model, grammar, "((é)")
    assert "'guidance' reads Lark" in refused(backend, Constraint("grammar", 'start: "a"')).reason
    assert refused(backend, Constraint("grammar", "root ::= x")).reason.startswith("EBNF")
    refused(backend, Constraint("grammar", ""))


FUNCTION = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
CALL = {"type": "tag", "begin": "<f>", "content": {"type": "json_schema", "json_schema": FUNCTION}, "end": "</f>"}


@pytest.mark.parametrize(
    "tag",
    [
        {"structures": [{"begin": "<f>", "schema": FUNCTION, "end": "</f>"}], "triggers": ["<f"]},
        {"type": "structural_tag", "structures": [{"begin": "<f>", "schema": json.dumps(FUNCTION), "end": "</f>"}],
         "triggers": ["<f"]},
        {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": ["<f"], "tags": [CALL]}},
        {"type": "sequence", "elements": [
            {"type": "any_text", "excludes": ["<"]}, {"type": "star", "content": CALL}]},
    ],
)  # fmt: skip
def test_structural_tag(model: ModelInfo, backend: GrammarBackend, accepts: Accepts, tag: Any) -> None:
    grammar = backend.compile(Constraint.of("structural_tag", tag))
    assert accepts(model, grammar, 'so: <f>{"x":1}</f>')
    assert accepts(model, grammar, '<f>{"x": 1}</f><f>{"x":2}</f>')
    assert not accepts(model, grammar, "<f>{}</f>")
    assert not accepts(model, grammar, '<f>{"x":1}')
    assert not accepts(model, grammar, '<f>{"x":  1}</f>')  # one blank at most


@pytest.mark.parametrize(
    ("tag", "place"),
    [
        (
            {"structures": [{"begin": "a", "schema": {"not": {}}, "end": "b"}], "triggers": ["a"]},
            "/structures/0/schema/not",
        ),
        (
            {"type": "structural_tag", "format": {"type": "json_schema", "json_schema": {"not": {}}}},
            "/format/json_schema/not",
        ),
        ({"type": "sequence", "elements": [{"type": "regex", "pattern": "(?=a)"}]}, "/elements/0/pattern"),
        ({"type": "optional", "content": {"type": "grammar", "grammar": "start: x"}}, "/content/grammar"),
        ({"type": "json_schema", "json_schema": {}, "style": "qwen_xml"}, "/style"),
        ({"type": "json_schema", "json_schema": {}, "any_order": True}, "/any_order"),
        ({"type": "any_tokens"}, ""),
        ({"type": "token", "token": "<|im_start|>"}, ""),
        ({"type": "tag", "begin": {"type": "token", "token": 3}, "content": {"type": "any_text"}, "end": ""}, "/begin"),
        ({"type": "tag", "begin": "a"}, ""),
        ({"structures": 3}, "/structures"),
        ({"structures": [{}]}, "/structures/0"),
        ([], ""),
    ],
)
def test_structural_tags_it_does_not_enforce_are_refused(backend: GrammarBackend, tag: Any, place: str) -> None:
    assert refused(backend, Constraint.of("structural_tag", tag)).place == place


# --- characters -------------------------------------------------------------------------------------------------------


def byte(model: ModelInfo, *values: int) -> int:
    """The token of these bytes."""
    (found,) = (at for at in range(model.logits_width) if bytes(model.tokens.bytes(at)) == bytes(values))
    return found


def test_half_a_surrogate_pair_is_never_written(model: ModelInfo, backend: GrammarBackend, allowed: Allowed) -> None:
    """What UTF-8 has between ED A0 80 and ED BF BF is no character, although the library takes it for one."""
    matcher = backend.compile(Constraint("regex", r"[\s\S]+")).start()
    low, high = ({byte(model, value) for value in values} for values in (range(0x80, 0xA0), range(0xA0, 0xC0)))
    matcher.accept(byte(model, 0xED))
    assert allowed(model, matcher) == allowed(model, matcher.copy()) == low
    matcher.accept(byte(model, 0x9F))
    assert allowed(model, matcher) == low | high  # of the character's last byte, all
    matcher.accept(byte(model, 0xBF))
    matcher.accept(byte(model, 0xEC))
    assert allowed(model, matcher) == low | high


def test_tokens_with_half_a_surrogate_pair_are_never_written(allowed: Allowed) -> None:
    letters = bytes_to_unicode()
    pieces = [
        "".join(letters[value] for value in piece)
        for piece in (b"\xed\xa0", b"a\xed", b"\x80b", b"\xbfb", b"c\xed\xbf")
    ]
    vocab = {text: at for at, text in enumerate([*sorted(letters.values()), *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    model = ModelInfo("pieces", PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"))
    found = xgrammar.grammar_backend(model)
    assert found is not None
    matcher = found.compile(Constraint("regex", r"[\s\S]+")).start()
    half, ending, other = byte(model, 0xED, 0xA0), byte(model, 0x61, 0xED), byte(model, 0x63, 0xED, 0xBF)
    assert ending in allowed(model, matcher)
    assert not {half, other} & allowed(model, matcher)
    matcher.accept(ending)
    assert allowed(model, matcher) == {byte(model, value) for value in range(0x80, 0xA0)}


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "number", "minimum": 0.5}, ""),
        ({"type": "number", "maximum": 1, "exclusiveMinimum": 0.5}, ""),
        ({"type": "integer", "exclusiveMaximum": 1.5}, ""),
        ({"properties": {"a": {"type": "integer", "maximum": -0.5}}}, "/properties/a"),
        ({"type": "string", "pattern": "a", "maxLength": 2}, "/maxLength"),
        ({"type": "string", "format": "hostname"}, "/format"),
    ],
)
def test_keywords_it_does_not_enforce_are_refused(backend: GrammarBackend, schema: Any, place: str) -> None:
    assert refused(backend, Constraint.of("json", schema)).place == place


def test_other_whitespace_is_refused(backend: GrammarBackend) -> None:
    assert "blanks" in refused(backend, Constraint.of("json", {"type": "object"}, whitespace="[\n]+")).reason
