"""Constraints in TGI's words: which schema or expression is sent, and what TGI would not enforce."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chatplan import RequestError, UnsupportedFieldError
from chatplan.adapters.tgi.grammar import grammar_of
from chatplan.guided.constraint import Constraint

SCHEMA = {"type": "object", "properties": {"n": {"enum": [1]}}, "required": ["n"]}


def json_grammar(schema: Any, **more: Any) -> dict[str, Any]:
    return grammar_of(Constraint.of("json", schema, param="guided_json", **more))


def tag_expression(node: Any) -> str:
    found = grammar_of(Constraint.of("structural_tag", {"type": "structural_tag", "format": node}))
    assert found["type"] == "regex"
    return str(found["value"])


def test_words_that_enforce_nothing_stay_in_a_schema_that_goes_as_it_is() -> None:
    inner = {"type": "object", "properties": {"title": {"enum": [1]}}, "required": ["title"], "description": "x"}
    schema = {**SCHEMA, "properties": {"n": {"enum": [1], "default": 1, "examples": [1]}, "title": inner},
              "title": "t", "$schema": "s", "additionalProperties": False}  # fmt: skip
    assert json_grammar(schema) == {"type": "json", "value": schema}


def test_a_schema_that_says_more_is_written_anew() -> None:
    schema = {"$defs": {"one": {"enum": [1]}}, "type": "object", "properties": {"n": {"$ref": "#/$defs/one"}},
              "required": ["n"]}  # fmt: skip
    wanted = {**SCHEMA, "properties": {"n": {"$ref": "#/$defs/d0"}}, "$defs": {"d0": {"enum": [1]}}}
    assert json_grammar(schema) == {"type": "json", "value": wanted}


def test_one_is_not_one_point_nought() -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1.0]}}, "required": ["n"]}
    assert str(json_grammar(schema)["value"]["properties"]["n"]) == str({"enum": [1.0]})


def test_other_schemas_are_expressions() -> None:
    pytest.importorskip("outlines_core")
    found = json_grammar({"type": "array", "items": {"enum": ["\u00e4"]}, "maxItems": 1})
    assert found["type"] == "regex"
    assert re.fullmatch(found["value"], '["\u00e4"]')
    assert not re.fullmatch(found["value"], '["b"]')


def test_without_their_library_other_schemas_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatplan.adapters.tgi.grammar.find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"guided_json: .*chatplan\[outlines\]"):
        json_grammar({"type": "array", "items": {"enum": [1]}})
    assert json_grammar(SCHEMA)["type"] == "json"


def test_expressions_and_choices() -> None:
    assert grammar_of(Constraint("regex", "a+|b")) == {"type": "regex", "value": "a+|b"}
    assert grammar_of(Constraint.of("choice", ["a.b", "c"])) == {"type": "regex", "value": r"a\.b|c"}


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (Constraint("grammar", 'root ::= "a"', param="guided_grammar"), "schemas and regular expressions only"),
        (Constraint("regex", "a", whitespace="", param="guided_grammar"), "blanks of its own"),
        (Constraint.of("structural_tag", {"type": "any_text"}, param="guided_grammar"), "of the type any_text"),
        (Constraint("json", "{", param="guided_grammar"), "cannot enforce it"),
    ],
)
def test_what_is_not_enforced_is_refused_by_name(constraint: Constraint, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        grammar_of(constraint)
    assert caught.value.param == "guided_grammar"


def test_after_reasoning_nothing_can_be_enforced() -> None:
    with pytest.raises(UnsupportedFieldError, match="switch reasoning off") as caught:
        grammar_of(Constraint("regex", "a", thinking=True, param="guided_regex"))
    assert caught.value.param == "guided_regex"


# --- calls of tools ---------------------------------------------------------------------------------------------------

DOT, NUMBER = {"type": "const_string", "value": "a.b"}, {"type": "regex", "pattern": "x|y"}
TAG = {"type": "tag", "begin": "<(", "content": NUMBER, "end": ")>"}


@pytest.mark.parametrize(
    ("node", "matches", "others"),
    [
        (DOT, ["a.b"], ["aXb"]),
        (NUMBER, ["x", "y"], ["xy"]),
        ({"type": "sequence", "elements": [DOT, NUMBER]}, ["a.bx", "a.by"], ["a.b", "y", "xa.b"]),
        ({"type": "or", "elements": [DOT, NUMBER]}, ["a.b", "x"], ["a.bx"]),
        (TAG, ["<(x)>", "<(y)>"], ["<(x", "y)>", "x"]),
    ],
)
def test_parts_are_expressions(node: Any, matches: list[str], others: list[str]) -> None:
    expression = re.compile(tag_expression(node))
    assert all(expression.fullmatch(text) for text in matches)
    assert not any(expression.fullmatch(text) for text in others)


@pytest.mark.parametrize(
    ("at_least_one", "stop_after_first", "counts"),
    [(True, True, {1}), (True, False, {1, 2, 3}), (False, True, {0, 1}), (False, False, {0, 1, 2, 3})],
)
def test_how_many_calls(at_least_one: bool, stop_after_first: bool, counts: set[int]) -> None:
    node = {"type": "tags_with_separator", "tags": [TAG, {**TAG, "begin": "["}], "separator": ".",
            "at_least_one": at_least_one, "stop_after_first": stop_after_first}  # fmt: skip
    expression = re.compile(tag_expression(node))
    texts = {0: "", 1: "[x)>", 2: "<(x)>.[y)>", 3: "[x)>.<(y)>.[x)>"}
    assert {count for count, text in texts.items() if expression.fullmatch(text)} == counts
    assert not expression.fullmatch("<(x)><(y)>")
    assert not expression.fullmatch("<(x)>,<(y)>")


def test_arguments_of_a_call_are_an_expression() -> None:
    pytest.importorskip("outlines_core")
    node = {"type": "tag", "begin": "<", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": ">"}
    expression = re.compile(tag_expression(node))
    assert expression.fullmatch('<{"n": 1}>')
    assert not expression.fullmatch('<{"n": 2}>')
