"""What reaches a library of a schema, and what is refused; and the one dialect of regular expressions."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from chatplan import ModelInfo
from chatplan.guided import CannotEnforce, Constraint
from chatplan.guided.honours import Honours
from chatplan.guided.keywords import honoured
from chatplan.guided.patterns import FORMATS, portable
from chatplan.guided.values import choices, json_value
from chatplan.guided.vocabulary import JSON_STRING, NUL, token_bytes
from chatplan.standin import stand_in

ALL = Honours(
    "lib",
    {
        "string": ("minLength", "maxLength", "pattern", "format"),
        "integer": ("minimum", "maximum"),
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "object": ("properties", "required", "additionalProperties"),
    },
)
ANYTHING = {"anyOf": [{"type": t} for t in ("string", "number", "boolean", "null", "object", "array")]}


def read(schema: Any, honours: Honours = ALL) -> Any:
    return honoured(schema, honours)


# --- one spelling -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "spelled"),
    [
        ({"type": "integer", "title": "T", "x-ui": 1, "$schema": "s", "default": 3}, {"type": "integer"}),
        (True, ANYTHING),
        ({"description": "any"}, ANYTHING),
        ({"const": 1}, {"enum": [1]}),
        ({"type": "integer", "enum": [1, "a", 2.5, True]}, {"enum": [1]}),
        ({"type": ["integer", "null"], "minimum": 2}, {"anyOf": [{"type": "integer", "minimum": 2}, {"type": "null"}]}),
        ({"const": 2**53}, {"enum": [2**53]}),
        ({"enum": [-(2**53), 1]}, {"enum": [-(2**53), 1]}),
        ({"type": "number", "enum": [1, 1.5, "a"]}, {"enum": [1, 1.5]}),
        ({"type": "integer", "enum": [1.0, 1.5]}, {"enum": [1.0]}),
        ({"oneOf": [{"enum": ["a", None]}, {"type": ["boolean", "number"]}]},
         {"anyOf": [{"enum": ["a", None]}, {"type": "boolean"}, {"type": "number"}]}),
        ({"type": "string", "maxLength": 2**31 - 1}, {"type": "string", "maxLength": 2**31 - 1}),
        ({"type": "array", "minItems": 0, "maxItems": 0}, {"type": "array", "maxItems": 0}),
        ({"type": "string", "minLength": 2, "maxLength": 2}, {"type": "string", "minLength": 2, "maxLength": 2}),
        ({"properties": {"a": {"type": "null"}}, "required": ["a"]},
         {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}),
        ({"allOf": [{"type": "null"}], "title": "T"}, {"type": "null"}),
        ({"anyOf": [{"anyOf": [{"type": "null"}, {"const": 1}]}, {"const": 2}]},
         {"anyOf": [{"type": "null"}, {"enum": [1]}, {"enum": [2]}]}),
        ({"oneOf": [{"type": "null"}, {"type": "string"}]}, {"anyOf": [{"type": "null"}, {"type": "string"}]}),
        ({"type": "string", "minLength": 0, "maxLength": 2.0}, {"type": "string", "maxLength": 2}),
        ({"type": "array", "items": True, "minItems": 1}, {"type": "array", "minItems": 1}),
        ({"type": "object"}, {"type": "object"}),
        ({"type": "object", "additionalProperties": {"type": "null"}},
         {"type": "object", "additionalProperties": {"type": "null"}}),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "properties": {}, "required": []}),
        ({"properties": {"a": {"type": "null"}}, "additionalProperties": True},
         {"type": "object", "properties": {"a": {"type": "null"}}, "required": []}),
        ({"$ref": "#/$defs/a~1%62", "$defs": {"a/b": {"type": "null"}, "unused": {"not": {}}}},
         {"$ref": "#/$defs/d0", "$defs": {"d0": {"type": "null"}}}),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": False},
         {"type": "array", "prefixItems": [{"enum": [1]}]}),
    ],
)  # fmt: skip
def test_schemas_have_one_spelling(schema: Any, spelled: Any) -> None:
    assert read(schema) == spelled


def test_a_schema_may_refer_to_itself() -> None:
    schema = {"type": "object", "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}}
    assert read(schema)["$defs"].keys() == {"d0"}
    with pytest.raises(CannotEnforce, match="refers to itself") as caught:
        read(schema, Honours("lib", ALL.keywords, recursion=False))
    assert caught.value.place == "/properties/next/anyOf/0/$ref"


def test_lengths_become_an_expression_for_libraries_that_do_not_count() -> None:
    spelled = read({"type": "string", "minLength": 2, "maxLength": 3}, Honours("lib", ALL.keywords, lengths=False))
    assert re.fullmatch(spelled["pattern"], "é☕")
    assert not re.fullmatch(spelled["pattern"], 'a"')
    assert not re.fullmatch(spelled["pattern"], "abcd")


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "integer", "multipleOf": 2}, "/multipleOf"),
        ({"type": "string", "minimum": 2}, "/minimum"),
        ({"minimum": 2}, "/minimum"),
        ({"not": {}}, "/not"),
        ({"type": "array", "uniqueItems": True}, "/uniqueItems"),
        ({"type": "object", "patternProperties": {}}, "/patternProperties"),
        ({"type": "object", "properties": {"a/b": {"not": {}}}}, "/properties/a~1b/not"),
        ({"type": "array", "items": {"contains": {}}}, "/items/contains"),
        ({"properties": {"a": {}}, "additionalProperties": {"type": "null"}}, "/additionalProperties"),
        ({"type": "object", "required": ["a"]}, "/required"),
        ({"type": "object", "properties": {"a": {}}, "required": ["a", "a"]}, "/required"),
        ({"type": "object", "properties": []}, "/properties"),
        ({"type": "string", "pattern": "a", "maxLength": 3}, "/maxLength"),
        ({"type": "string", "pattern": "(?=a)"}, "/pattern"),
        ({"type": "string", "pattern": '"'}, "/pattern"),
        ({"type": "string", "format": "nonsense"}, "/format"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "/maxLength"),
        ({"type": "string", "minLength": True}, "/minLength"),
        ({"type": "string", "minLength": -1}, "/minLength"),
        ({"type": "string", "minLength": 1.5}, "/minLength"),
        ({"type": "string", "maxLength": 2**31}, "/maxLength"),
        ({"type": "array", "minItems": 2, "maxItems": 1}, "/maxItems"),
        ({"type": "integer", "minimum": 2**60}, "/minimum"),
        ({"type": "integer", "minimum": True}, "/minimum"),
        ({"type": "array", "prefixItems": [{}], "minItems": 2}, "/prefixItems"),
        ({"type": "array", "prefixItems": [{}, {}], "maxItems": 1}, "/prefixItems"),
        ({"const": 2**53 + 1}, "/const"),
        ({"const": [{"a": -(2**53) - 1}]}, "/const"),
        ({"type": "array", "items": [{}]}, "/items"),
        ({"type": "array", "prefixItems": [{}], "items": {"type": "null"}}, "/prefixItems"),
        ({"type": "array", "prefixItems": []}, "/prefixItems"),
        ({"type": "wrong"}, "/type"),
        ({"type": []}, "/type"),
        ({"type": {}}, "/type"),
        ({"enum": []}, "/enum"),
        ({"enum": 3}, "/enum"),
        ({"type": "string", "enum": [1]}, "/enum"),
        ({"const": 2**60}, "/const"),
        ({"enum": ["a"], "minLength": 1}, "/minLength"),
        ({"anyOf": [{"type": "null"}], "type": "null"}, "/type"),
        ({"anyOf": []}, "/anyOf"),
        ({"anyOf": {}}, "/anyOf"),
        ({"anyOf": [{"type": "null"}, False]}, "/anyOf/1"),
        ({"allOf": [{"type": "null"}, {"type": "null"}]}, "/allOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf"),
        ({"oneOf": [{"const": 1}, {"type": "number"}]}, "/oneOf"),
        ({"oneOf": [{"enum": ["a", None]}, {"type": "null"}]}, "/oneOf"),
        ({"oneOf": [{"$ref": "#/$defs/a"}, {"type": "null"}], "$defs": {"a": {"type": ["null", "string"]}}}, "/oneOf"),
        ({"$ref": "#/$defs/a", "minimum": 1, "$defs": {"a": {}}}, "/minimum"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "/$ref"),
        ({"$ref": "https://example.com/schema"}, "/$ref"),
        ({"$ref": "#anchor"}, "/$ref"),
        ({"$ref": 3}, "/$ref"),
        ({"$ref": "#/$defs/a/type", "$defs": {"a": {"type": "null"}}}, "/$defs/a/type"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"not": {}}}}, "/$defs/a/not"),
        ({"$ref": "#/$defs/a/b", "$defs": {"a": {"$id": "other", "b": {}}}}, "/$ref"),
        ({"properties": {"a": {"$id": "other", "type": "null"}}}, "/properties/a/$id"),
        ({"$ref": "#"}, ""),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"anyOf": [{"$ref": "#"}, {}]}}}, ""),
        (False, ""),
        (None, ""),
        ([], ""),
    ],
)  # fmt: skip
def test_what_is_not_enforced_is_refused_with_its_place(schema: Any, place: str) -> None:
    with pytest.raises(CannotEnforce, match="lib") as caught:
        read(schema)
    assert caught.value.place == place


def test_deep_schemas_are_refused() -> None:
    schema: Any = {"type": "null"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(CannotEnforce, match="nested too deeply"):
        read(schema)
    with pytest.raises(CannotEnforce, match="nested too deeply"):
        json_value(Constraint("json", "[" * 100_000))


def test_nothing_but_refusals_comes_of_malformed_schemas() -> None:
    draw = random.Random(3)
    words = (
        "type enum const anyOf oneOf allOf $ref $defs properties required items prefixItems minItems maxItems".split()
    )
    words += "additionalProperties minLength maxLength pattern format minimum maximum multipleOf title $id not".split()
    values = [
        None,
        True,
        0,
        -1,
        1.5,
        2**70,
        "object",
        "string",
        "array",
        "integer",
        "#",
        "#/$defs/a",
        "#/items",
        "(",
        "date",
    ]

    def value(depth: int) -> Any:
        if depth == 0 or draw.random() < 0.3:
            return draw.choice(values)
        if draw.random() < 0.3:
            return [value(depth - 1) for _ in range(draw.randint(0, 3))]
        return {draw.choice([*words, "a"]): value(depth - 1) for _ in range(draw.randint(0, 3))}

    for _ in range(20_000):
        try:
            read(value(4))
        except CannotEnforce:
            continue


def test_alternatives_do_not_multiply() -> None:
    parts = {f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 2} for at in range(60)}
    assert read({"$ref": "#/$defs/a0", "$defs": {**parts, "a60": {"type": "null"}}})


@pytest.mark.parametrize("text", ["{", "", "NaN", "[Infinity]", '"\\ud800"', "1e999"])
def test_text_must_be_json(text: str) -> None:
    with pytest.raises(CannotEnforce, match="JSON") as caught:
        json_value(Constraint("json", text))
    assert caught.value.wrong


@pytest.mark.parametrize("value", [[], "a", ["a", 1], {"a": 1}, None])
def test_choices_are_texts(value: Any) -> None:
    with pytest.raises(CannotEnforce, match="choices"):
        choices(Constraint.of("choice", value))


def test_choices_come_once() -> None:
    assert choices(Constraint.of("choice", ["b", "a", "b"])) == ["b", "a"]


# --- regular expressions ----------------------------------------------------------------------------------------------

PATTERNS = [
    r"[\D\W]", r"[^\D\W]", r"[^\D5]", r"[\W\S]", r"[\x30-\x35\d]", r"[^\x00-\x60]", "a{3}|a{0}",
    "", "a|", "yes|yes please", r"^\d{3}-\d{4}$", r"^a$|^b$", "(?P<n>a+?)b*", r"[^a-c]x", r"[\]\-\\^&~]+", r"[a\d_]",
    r"[^\d\s]", r"[\D1]", r"\W\S", r"a{2}b{1,}c{0,2}", r"\x41\u00e9\u{1F600}?", r"\t\n\r\/\.", "{", "é|☕", "[-a]",
    r"(?:(a|b)c){2}", r"[\s\S]", "[^a]{2}", r"(x|(y|z)?)+",
]  # fmt: skip
TEXTS = [
    "", "a", "b", "ab", "aab", "yes", "yes please", "123-4567", "1", "éx", "]-\\^&~", "_", "\t\n\r/.", "Aé", "Aé😀",
    "x", "-", "é", "☕", "acbc", "aabcc", "\n", "zz", "{", " ", "xyz", "1a", "é ",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_expressions_keep_their_meaning(pattern: str) -> None:
    meant = re.compile(pattern.replace(r"\u{1F600}", "\U0001f600"), re.ASCII)
    spelled = re.compile(portable(pattern))
    assert [text for text in TEXTS if spelled.fullmatch(text)] == [text for text in TEXTS if meant.fullmatch(text)]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_expressions_search_inside_json_strings(pattern: str) -> None:
    try:
        spelled = re.compile(portable(pattern, search=True, forbidden=JSON_STRING))
    except CannotEnforce:
        assert re.search(r"\\[tn\\]", pattern)
        return
    meant = re.compile(pattern.replace(r"\u{1F600}", "\U0001f600"), re.ASCII)
    plain = [text for text in TEXTS if not re.search(r'["\\\x00-\x1f]', text)]
    assert [text for text in plain if spelled.fullmatch(text)] == [text for text in plain if meant.search(text)]
    assert not any(spelled.fullmatch(f"{text}{bad}{text}") for text in plain for bad in '"\\\n')


def test_digits_and_words_are_ascii() -> None:
    assert not re.fullmatch(portable(r"\d"), "\u0661")
    assert not re.fullmatch(portable(r"[\w]"), "é")


def test_forbidden_characters_are_in_no_class() -> None:
    assert not re.fullmatch(portable(r"[\s\S]", forbidden=NUL), "\0")
    assert re.fullmatch(portable(r"[\s\S]"), "\0")


@pytest.mark.parametrize(
    "pattern",
    [
        "(", ")", "[", "[]", "[]a]", "[^]", "[[:alpha:]]", "*", "a**", "a++", "|*", "(*a)", "a{2,1}", "a{,3}", "{}",
        "a{999999}", "\\", r"\1", r"\b", r"\B", r"\A", r"\Z", r"\p{L}", r"\k<a>", r"\x4", r"\ud800", r"\u{110000}",
        r"\01", "(?=a)", "(?!a)", "(?<=a)b", "(?i)a", "(?i:a)", "(?>a)", "(?P=a)", "a^b", "a$b", "(^a)", "(a$)",
        "[b-a]", r"[a-\d]", r"[\b]",
    ],
)  # fmt: skip
def test_expressions_beyond_the_dialect_are_refused(pattern: str) -> None:
    with pytest.raises(CannotEnforce, match="regular expression"):
        portable(pattern)


def test_nothing_but_refusals_comes_of_noise() -> None:
    draw = random.Random(7)
    for _ in range(5000):
        pattern = "".join(draw.choices('ab01\\[]()^$.*+?{},-|:d\n"é', k=draw.randint(0, 12)))
        try:
            re.compile(portable(pattern))
        except CannotEnforce:
            continue


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "1999-12-31"], ["2023-02-29", "1900-02-29", "2024-04-31", "2024-1-1"]),
        ("time", ["23:59:59Z", "00:00:00.5+01:00"], ["24:00:00Z", "12:00:00", "12:00:00+24:00", "12:60:00Z"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2024-02-29", "2024-02-29 12:00:00Z"]),
        ("uuid", ["2eb8aa08-aa98-11ea-b4aa-73b441d16380"], ["2eb8aa08aa9811eab4aa73b441d16380"]),
        ("ipv4", ["0.0.0.0", "255.249.199.99"], ["256.0.0.1", "1.2.3", "01.2.3.4"]),
        ("email", ["a.b+c@example.org"], [".a@b.cd", "a@b", "a..b@c.de", "a@-b.cd", "a b@c.de"]),
    ],
)
def test_formats(name: str, good: list[str], bad: list[str]) -> None:
    pattern = re.compile(read({"type": "string", "format": name})["pattern"])
    assert name in FORMATS
    assert all(pattern.fullmatch(text) for text in good)
    assert not any(pattern.fullmatch(text) for text in bad)


# --- tokens -----------------------------------------------------------------------------------------------------------


def with_ends(*ends: int, width: int | None = None) -> ModelInfo:
    """The stand-in, whose answers end with these tokens."""
    config: Any = SimpleNamespace(
        eos_token_id=list(ends), get_text_config=lambda: SimpleNamespace(vocab_size=width or stand_in().logits_width)
    )
    return replace(stand_in(), config=config)


def test_tokens_that_end_answers_have_no_bytes() -> None:
    tokens = token_bytes(with_ends(257, 65, 999))
    assert tokens[65] == tokens[257] == b""
    assert tokens[66] != b""


def test_ids_without_a_token_have_no_bytes() -> None:
    assert token_bytes(with_ends(257, width=300))[259:] == [b""] * 41


@pytest.mark.parametrize(("ends", "known"), [([], False), ([259], False), ([900, 258], True)])
def test_a_model_whose_answers_never_end_is_refused(ends: list[int], known: bool) -> None:
    tokenizer: Any = PreTrainedTokenizerFast(tokenizer_object=stand_in().tokenizer.backend_tokenizer)
    model = ModelInfo("endless", tokenizer, with_ends(*ends, width=259).config)
    if known:
        assert len(token_bytes(model)) == 259
        return
    with pytest.raises(CannotEnforce, match="no token that ends an answer"):
        token_bytes(model)


def test_special_tokens_have_no_bytes() -> None:
    model = stand_in()
    tokens = token_bytes(model)
    assert len(tokens) == model.logits_width
    assert sorted(tokens[:256]) == [bytes([byte]) for byte in range(256)]
    assert set(tokens[256:]) == {b""}
