"""Schemas that are refused: where, why, and whether the schema itself is wrong."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.prepare import prepare

STR: dict[str, Any] = {"type": "string"}
INT: dict[str, Any] = {"type": "integer"}
ARRAY: dict[str, Any] = {"type": "array"}
OBJECT: dict[str, Any] = {"type": "object"}

Rows = list[tuple[Any, str, str]]  # schema, place, a piece of the reason

MALFORMED: Rows = [
    (3, "", "object, true or false"),
    ("a", "", "object, true or false"),
    (None, "", "object, true or false"),
    ([STR], "", "object, true or false"),
    ({"type": 3}, "/type", "one of null, boolean"),
    ({"type": "strin"}, "/type", "one of null, boolean"),
    ({"type": []}, "/type", "or a list of some"),
    ({"type": ["string", 3]}, "/type", "one of"),
    ({"type": None}, "/type", "one of"),
    ({"properties": []}, "/properties", "an object of schemas"),
    ({"properties": {"a/b": {"properties": {"c": 3}}}}, "/properties/a~1b/properties", "an object of schemas"),
    ({"patternProperties": {"a": 1}}, "/patternProperties", "an object of schemas"),
    ({"required": "a"}, "/required", "a list of strings"),
    ({"required": [1]}, "/required", "a list of strings"),
    ({"required": True}, "/required", "a list of strings"),
    ({"enum": []}, "/enum", "not empty"),
    ({"enum": "a"}, "/enum", "not empty"),
    ({"items": 3}, "/items", "a schema"),
    ({"items": [STR, 3]}, "/items", "a schema"),
    ({"prefixItems": []}, "/prefixItems", "not empty"),
    ({"allOf": []}, "/allOf", "not empty"),
    ({"anyOf": {}}, "/anyOf", "a list of schemas"),
    ({"oneOf": [1]}, "/oneOf", "a list of schemas"),
    ({"not": []}, "/not", "true or false"),
    ({"if": "a"}, "/if", "true or false"),
    ({"minLength": -1}, "/minLength", "not negative"),
    ({"minLength": 1.5}, "/minLength", "whole number"),
    ({"maxItems": True}, "/maxItems", "whole number"),
    ({"minProperties": "1"}, "/minProperties", "whole number"),
    ({"minimum": "1"}, "/minimum", "a number"),
    ({"maximum": True}, "/maximum", "a number"),
    ({"exclusiveMinimum": None}, "/exclusiveMinimum", "a number"),
    ({"multipleOf": 0}, "/multipleOf", "above 0"),
    ({"multipleOf": -2}, "/multipleOf", "above 0"),
    ({"uniqueItems": 1}, "/uniqueItems", "true or false"),
    ({"pattern": 1}, "/pattern", "a string"),
    ({"format": 1}, "/format", "a string"),
    ({"$ref": 1}, "/$ref", "a string"),
    ({"dependencies": {"a": 1}}, "/dependencies", "schemas and lists"),
    ({"dependentRequired": {"a": "b"}}, "/dependentRequired", "lists of strings"),
    ({"additionalProperties": "no"}, "/additionalProperties", "true or false"),
    ({"$defs": {"x": {"type": 3}}, "$ref": "#/$defs/x"}, "/$defs/x/type", "one of"),
    ({"$ref": "#/$defs/x"}, "/$ref", "leads nowhere"),
    ({"items": {"$ref": "#nope"}}, "/items/$ref", "leads nowhere"),
    ({"$ref": "#/type", "type": "string"}, "/$ref", "leads nowhere"),
    ({"$ref": "#/allOf/7", "allOf": [STR]}, "/$ref", "leads nowhere"),
    ({"items": [STR], "additionalItems": [INT]}, "/additionalItems", "a schema"),
    ({"maximum": True, "exclusiveMaximum": True}, "/maximum", "a number"),
    ({"items": [], "enum": []}, "/enum", "not empty"),
    ({"minimum": float("inf")}, "/minimum", "infinite"),
    ({"const": [1, float("nan")]}, "/const/1", "not a number"),
    ({"const": {1, 2}}, "/const", "not JSON: set"),
]
EMPTY: Rows = [
    (False, "", "no JSON text"),
    ({"not": {}}, "", "no JSON text"),
    ({"allOf": [STR, False]}, "", "no JSON text"),
    ({"anyOf": [False]}, "", "no JSON text"),
    ({"oneOf": [True, True]}, "", "no JSON text"),
    ({**OBJECT, "required": ["a"], "properties": {"a": False}}, "", "no JSON text"),
    ({**ARRAY, "items": False, "minItems": 1}, "", "no JSON text"),
    ({"$ref": "#"}, "", "no JSON text"),
    ({"allOf": [{"$ref": "#"}]}, "", "no JSON text"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/y"}, "y": {"$ref": "#/$defs/x"}}}, "", "no JSON text"),
    ({**OBJECT, "properties": {"a": {"$ref": "#"}}, "required": ["a"]}, "", "that ends"),
    ({**ARRAY, "items": {"$ref": "#"}, "minItems": 1}, "", "that ends"),
]
UNCLEAR: Rows = [
    ({**STR, "pattern": "(a"}, "/pattern", "not closed"),
    ({**STR, "pattern": "a)"}, "/pattern", "not opened"),
    ({**STR, "pattern": "*a"}, "/pattern", "nothing to repeat"),
    ({**STR, "pattern": "[a"}, "/pattern", "too early"),
    ({**STR, "pattern": "a\\"}, "/pattern", "too early"),
    ({**STR, "pattern": "a{2,1}"}, "/pattern", "wrong order"),
    ({**STR, "pattern": "[]"}, "/pattern", "no characters"),
    ({**STR, "pattern": r"\ud800"}, "/pattern", "no character"),
    ({**STR, "pattern": "^(?=a)"}, "/pattern", "looks ahead"),
    ({**STR, "pattern": "(?<!a)b"}, "/pattern", "looks ahead or behind"),
    ({**STR, "pattern": r"(a)\1"}, "/pattern", "reference back"),
    ({**STR, "pattern": r"\bab"}, "/pattern", "word boundary"),
    ({**STR, "pattern": r"\q"}, "/pattern", "unknown"),
    ({**OBJECT, "patternProperties": {"(a": {}}}, "/patternProperties/(a", "not closed"),
    ({"$ref": "https://example.com/a.json"}, "/$ref", "another document"),
    ({"properties": {"a": {"$ref": "other.json"}}}, "/properties/a/$ref", "another document"),
    ({"$dynamicRef": "#x", "$defs": {"a": {"$dynamicAnchor": "x"}, "b": {"$id": "b", "$dynamicAnchor": "x"}}},
     "/$dynamicRef", "several places"),
    ({"$schema": "http://json-schema.org/draft-03/schema#"}, "/$schema", "before the fourth"),
    ({"format": "date"}, "/format", "unclear without a type"),
    ({**STR, "format": "regex"}, "/format", "not supported"),
    ({**STR, "format": "idn-email"}, "/format", "not supported"),
    ({**ARRAY, "uniqueItems": True}, "/uniqueItems", "unique"),
    ({**ARRAY, "items": STR, "uniqueItems": True}, "/uniqueItems", "unique"),
    ({**ARRAY, "contains": INT}, "/contains", "any length"),
    ({**ARRAY, "contains": INT, "maxItems": 3, "maxContains": 1}, "/contains", "any length"),
    ({**ARRAY, "contains": INT, "unevaluatedItems": False, "maxItems": 2}, "/unevaluatedItems", "beside"),
    ({"type": "number", "not": INT}, "/not/type", "no integers"),
    ({**STR, "not": {"pattern": "a"}}, "/not/pattern", "the opposite of"),
    ({**INT, "not": {"multipleOf": 3}}, "/not/multipleOf", "the opposite of"),
    ({"oneOf": [{**STR, "pattern": "a"}, {**STR, "pattern": "b"}]}, "/oneOf/0", "can overlap"),
    ({"properties": {"a": {"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}}}, "/properties/a/oneOf/0", "can overlap"),
    ({"if": {**STR, "pattern": "a"}, "then": {"maxLength": 3}}, "/if/pattern", "the opposite of"),
    ({**OBJECT, "not": {"additionalProperties": STR}}, "/not/additionalProperties", "further property"),
    ({**ARRAY, "not": {"items": STR}}, "/not/items", "some item"),
    ({**OBJECT, "not": {"const": {"a": 1}}}, "/not", "a certain object"),
    ({"not": {"$ref": "#/$defs/x"}, "$defs": {"x": {"properties": {"a": {"$ref": "#/$defs/x"}}}}}, "/not",
     "refers to itself"),
    ({**OBJECT, "properties": {f"p{n}": {} for n in range(30)}, "minProperties": 9}, "/minProperties", "too many"),
    ({**OBJECT, "propertyNames": {"not": {"minLength": 2, "pattern": "a"}}}, "/propertyNames", "names of properties"),
    ({"oneOf": [{"maxLength": n} for n in range(301)]}, "/oneOf", "too many"),
    ({"minimum": 2**80}, "", "too large"),
    ({"const": 2**80}, "/const", "too many digits"),
    ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, "", "less than 1 away"),
    ({"allOf": [{"multipleOf": 100003}, {"multipleOf": 100019}]}, "/allOf/1", "so many digits"),
]  # fmt: skip


def refusal(schema: Any) -> CannotEnforce:
    with pytest.raises(CannotEnforce) as caught:
        prepare(schema)
    return caught.value


@pytest.mark.parametrize(
    ("schema", "place", "reason", "wrong"),
    [*((*row, True) for row in MALFORMED + EMPTY), *((*row, False) for row in UNCLEAR)],
    ids=lambda value: str(value)[:60],
)
def test_refusals_have_a_place_and_a_reason(schema: Any, place: str, reason: str, wrong: bool) -> None:
    error = refusal(schema)
    assert (error.place, error.wrong) == (place, wrong)
    assert reason in error.reason
    assert "\n" not in str(error)
    assert len(str(error)) < 500


CROSSED = [
    {**STR, "minLength": 3, "maxLength": 2},
    {**ARRAY, "minItems": 3, "maxItems": 2},
    {**OBJECT, "minProperties": 3, "maxProperties": 2},
    {**INT, "minimum": 3, "maximum": 2},
    {**INT, "exclusiveMinimum": 2, "exclusiveMaximum": 3},
]


@pytest.mark.parametrize("schema", CROSSED, ids=str)
def test_bounds_that_cross_match_no_text(enforced: Any, schema: dict[str, Any]) -> None:
    with pytest.raises(CannotEnforce):
        enforced(schema)


@pytest.mark.parametrize("keyword", ["items", "not", "additionalProperties", "contains", "if"])
def test_a_thousand_levels_are_too_many(keyword: str) -> None:
    schema: Any = {}
    for _ in range(1000):
        schema = {keyword: schema}
    error = refusal(schema)
    assert error.wrong
    assert "nested more than 100 levels deep" in error.reason


def test_a_constant_may_be_nested_too_deeply_as_well() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    assert refusal({"const": value}).wrong


def test_many_ways_at_once_are_refused_soon() -> None:
    some = [{"properties": {f"p{n}": {"type": "string", "minLength": n}}} for n in range(8)]
    schema = {**OBJECT, "allOf": [{"oneOf": some} for _ in range(4)], "unevaluatedProperties": False}
    assert not refusal(schema).wrong


VALUES: list[Any] = [None, True, False, 0, -1, 1.5, "", "(", "#", [], [3], [None], {}, {"": 3}, {"a": []}, [[]], ["a"]]
KEYWORDS = """type enum const required properties patternProperties additionalProperties propertyNames minProperties
    maxProperties items prefixItems additionalItems contains minContains maxContains uniqueItems minItems maxItems
    unevaluatedItems unevaluatedProperties allOf anyOf oneOf not if then else dependencies dependentRequired
    dependentSchemas pattern format minLength maxLength minimum maximum exclusiveMinimum exclusiveMaximum multipleOf
    $ref $dynamicRef $recursiveRef $defs definitions $id id $anchor $dynamicAnchor $recursiveAnchor $schema""".split()


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_any_value_of_a_keyword_is_taken_or_refused(keyword: str) -> None:
    for value in VALUES:
        for schema in (
            {keyword: value},
            {"properties": {"a": {keyword: value}}},
            {"$ref": "#/x", "x": {keyword: value}},
        ):
            with suppress(CannotEnforce):
                assert isinstance(prepare(schema), dict)
