"""What a rewritten schema lets through is what the schema says: by tokens, and by the library ``jsonschema``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

Judges = Callable[[Any], Callable[[Any], bool]]
Rows = list[tuple[Any, list[Any], list[Any]]]  # schema, valid, invalid; the properties are in the schema's order

STR: dict[str, Any] = {"type": "string"}
INT: dict[str, Any] = {"type": "integer"}
NULL: dict[str, Any] = {"type": "null"}
ARRAY: dict[str, Any] = {"type": "array"}
OBJECT: dict[str, Any] = {"type": "object"}
SHUT: dict[str, Any] = {"additionalProperties": False}
OLD = {"$schema": "http://json-schema.org/draft-04/schema#"}
SEVEN = {"$schema": "http://json-schema.org/draft-07/schema#"}
NINE = {"$schema": "https://json-schema.org/draft/2019-09/schema"}


def a(**rules: Any) -> dict[str, Any]:
    """An object whose properties have these rules."""
    return {"type": "object", "properties": rules}


def kind(name: str, **rules: Any) -> dict[str, Any]:
    """An object that says which it is."""
    return {"type": "object", "properties": {"kind": {"const": name}, **rules}, "required": ["kind", *rules]}


LOGIC: Rows = [
    ({"oneOf": [STR, INT]}, ["a", 1], [None, 1.5, [], {}]),
    ({"oneOf": [STR, INT, NULL, ARRAY]}, ["a", 1, None, []], [True, {}]),
    ({"oneOf": [{"const": "a"}, {"const": "b"}]}, ["a", "b"], ["c", 1]),
    ({"oneOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, ["a", "c"], ["b", "d"]),
    ({"oneOf": [kind("x", n=INT), kind("y", n=STR)]}, [{"kind": "x", "n": 1}, {"kind": "y", "n": "1"}],
     [{"kind": "x", "n": "1"}, {"kind": "z"}, {}]),
    ({"oneOf": [{**a(p=INT), **SHUT, "required": ["p"]}, {**a(q=INT), **SHUT, "required": ["q"]}]},
     [{"p": 1}, {"q": 1}], [{}, {"p": 1, "q": 1}, {"p": "1"}]),
    ({**a(p=INT, q=INT), "oneOf": [{"required": ["p"]}, {"required": ["q"]}]}, [{"p": 1}, {"q": 1}, {"q": 1, "r": 2}],
     [{}, {"p": 1, "q": 1}, {"p": "1"}]),
    ({"oneOf": [INT, INT, STR]}, ["a"], [1]),
    ({"oneOf": [{**INT, "minimum": 0}, {**INT, "maximum": 10}]}, [-1, 11], [0, 5, 10, "a"]),
    ({"oneOf": [{**STR, "minLength": 2}, {**STR, "maxLength": 3}]}, ["", "a", "abcd"], ["ab", "abc", 1]),
    ({"oneOf": [True, False]}, [1, "a"], []),
    ({"oneOf": [STR, {**STR, "enum": ["a"]}]}, ["b", "ab", ""], ["a", 1]),
    ({"oneOf": [{**ARRAY, "minItems": 2}, {**ARRAY, "items": STR, "maxItems": 2}]},
     [[], ["a"], [1, 2, 3], [1, "a"]], [[1], ["a", "b"]]),
    ({"not": STR}, [1, None, [], {}, 1.5, True], ["a", ""]),
    ({"not": {"type": ["string", "null"]}}, [1, []], ["a", None]),
    ({**STR, "not": {"const": "a"}}, ["", "b", "ab"], ["a", 1]),
    ({**STR, "not": {"enum": ["a", "ab"]}}, ["", "b", "abc"], ["a", "ab"]),
    ({**INT, "not": {"enum": [1, 3]}}, [0, 2, 4], [1, 3, "a"]),
    ({"type": ["integer", "boolean"], "not": {"const": True}}, [False, 1, 0], [True]),
    ({**INT, "not": {"minimum": 5}}, [4, -9], [5, 6]),
    ({**STR, "not": {"maxLength": 2}}, ["abc"], ["", "ab"]),
    ({**a(p=INT, q=INT), "not": {"required": ["p", "q"]}}, [{}, {"p": 1}, {"q": 1}], [{"p": 1, "q": 1}]),
    ({**a(p=INT), "not": a(p={"minimum": 3})}, [{"p": 2}], [{"p": 3}, {}, {"q": 1}]),
    ({"not": {"anyOf": [STR, NULL]}}, [1, {}], ["a", None]),
    ({**INT, "not": {"allOf": [{"minimum": 3}, {"maximum": 5}]}}, [2, 6], [3, 4, 5]),
    ({"not": {"not": STR}}, ["a"], [1]),
    ({**INT, "not": {"oneOf": [{"minimum": 0}, {"maximum": 10}]}}, [0, 5, 10], [-1, 11]),
    ({"not": False}, [1, "a"], []),
    ({"not": {"enum": [None, "a", 1]}}, ["b", 2, 0, True, []], [None, "a", 1]),
    ({**ARRAY, "not": {"prefixItems": [STR]}}, [[1], [None, "a"]], [[], ["a"]]),
    ({**ARRAY, "not": {"const": []}}, [[1], [[]]], [[]]),
    ({**OBJECT, "not": {"const": {}}}, [{"p": 1}], [{}]),
    ({**ARRAY, "not": {"contains": STR}}, [[], [1, None]], [["a"], [1, "a"]]),
    ({**a(p=INT, q=INT), "not": {"dependentRequired": {"p": ["q"]}}}, [{"p": 1}], [{}, {"q": 1}, {"p": 1, "q": 1}]),
    ({"if": STR, "then": {"minLength": 2}, "else": {"type": "integer"}}, ["ab", 1], ["a", None, 1.5]),
    ({"if": STR, "then": {"minLength": 2}}, ["ab", 1, None], ["a"]),
    ({"if": STR, "else": INT}, ["", 1], [None, []]),
    ({**INT, "if": {"minimum": 10}, "then": {"multipleOf": 5}}, [3, 10, 15], [11, "a"]),
    ({"if": STR}, ["a", 1], []),
    ({"then": STR, "else": INT}, ["a", 1, None], []),
    ({**a(k={"enum": ["x", "y"]}, n={}), "required": ["k"], "if": a(k={"const": "x"}), "then": a(n=INT),
      "else": {"required": ["n"]}}, [{"k": "x"}, {"k": "x", "n": 1}, {"k": "y", "n": "a"}],
     [{"k": "x", "n": "a"}, {"k": "y"}, {}]),
    ({"allOf": [{"if": {"minimum": 5}, "then": {"maximum": 7}}, INT]}, [1, 5, 7], [8, "a"]),
    ({"allOf": [STR, {"minLength": 2}, {"maxLength": 3}]}, ["ab", "abc"], ["a", "abcd", 1]),
    ({"anyOf": [STR, {"minimum": 3}]}, ["a", 3, None], [2]),
]  # fmt: skip
OBJECTS: Rows = [
    ({**a(p=INT, q=INT), "dependentRequired": {"p": ["q"]}}, [{}, {"q": 1}, {"p": 1, "q": 1}], [{"p": 1}]),
    ({**a(p=INT, q=INT), "dependentSchemas": {"p": {"required": ["q"], "properties": {"q": {"minimum": 3}}}}},
     [{}, {"q": 1}, {"p": 1, "q": 3}], [{"p": 1}, {"p": 1, "q": 2}]),
    ({**a(p=INT), "dependentSchemas": {"p": False}}, [{}, {"q": 1}], [{"p": 1}]),
    ({**a(p=INT, q=INT), "required": ["p"], "dependentRequired": {"p": ["q"]}}, [{"p": 1, "q": 1}], [{"p": 1}, {}]),
    ({**a(p=INT, q=INT), "dependencies": {"p": ["q"]}, **SEVEN}, [{}, {"q": 1}, {"p": 1, "q": 1}], [{"p": 1}]),
    ({**a(p=INT, q=INT), "dependencies": {"p": {"required": ["q"]}}, **OLD}, [{}, {"p": 1, "q": 1}], [{"p": 1}]),
    ({**OBJECT, "propertyNames": {"pattern": "^x"}}, [{}, {"x": 1, "xy": "a"}], [{"y": 1}, {"x": 1, "y": 2}]),
    ({**OBJECT, "propertyNames": {"enum": ["p", "q"]}}, [{}, {"p": 1, "q": 2}], [{"r": 1}]),
    ({**OBJECT, "propertyNames": {"minLength": 2, "maxLength": 3}}, [{}, {"ab": 1, "abc": 2}], [{"a": 1}, {"abcd": 1}]),
    ({**OBJECT, "propertyNames": {"const": "p"}}, [{}, {"p": 1}], [{"q": 1}]),
    ({**OBJECT, "propertyNames": {"not": {"const": "p"}}}, [{}, {"q": 1}], [{"p": 1}]),
    ({**OBJECT, "propertyNames": {"not": {"pattern": "^p"}}}, [{"q": 1}, {"qp": 1}], [{"p": 1}, {"pq": 1}]),
    ({**OBJECT, "propertyNames": False}, [{}], [{"p": 1}]),
    ({**OBJECT, "propertyNames": INT}, [{}], [{"p": 1}]),
    ({**OBJECT, "propertyNames": {"anyOf": [{"const": "p"}, {"pattern": "^x"}]}}, [{"p": 1}, {"xy": 1}], [{"q": 1}]),
    ({**OBJECT, "minProperties": 1}, [{"p": 1}, {"p": 1, "q": 2}], [{}]),
    ({**OBJECT, "maxProperties": 1}, [{}, {"p": 1}], [{"p": 1, "q": 2}]),
    ({**OBJECT, "maxProperties": 0}, [{}], [{"p": 1}]),
    ({**a(p=INT, q=INT, r=INT), "minProperties": 2}, [{"p": 1, "r": 1}, {"q": 1, "z": 1}, {"p": 1, "q": 1, "r": 1}],
     [{}, {"q": 1}, {"z": 1}]),
    ({**a(p=INT, q=INT, r=INT), **SHUT, "maxProperties": 2}, [{}, {"r": 1}, {"p": 1, "q": 1}],
     [{"p": 1, "q": 1, "r": 1}, {"z": 1}]),
    ({**a(p=INT, q=INT), "required": ["p"], "minProperties": 1, "maxProperties": 1}, [{"p": 1}],
     [{}, {"q": 1}, {"p": 1, "q": 1}, {"p": 1, "z": 1}]),
    ({"type": ["object", "null"], "required": ["p"], "maxProperties": 0}, [None], [{}, {"p": 1}]),
    ({"maxProperties": 1.0}, [{"p": 1}, 3, "a"], [{"p": 1, "q": 1}]),
    ({**a(p=INT), "unevaluatedProperties": False}, [{}, {"p": 1}], [{"q": 1}]),
    ({**OBJECT, "allOf": [a(p=INT), a(q=STR)], "unevaluatedProperties": False}, [{}, {"p": 1, "q": "a"}, {"q": "a"}],
     [{"r": 1}, {"p": "a"}]),
    ({**a(p=INT), "if": {"required": ["p"]}, "then": a(q=INT), "unevaluatedProperties": False},
     [{}, {"p": 1}, {"p": 1, "q": 1}], [{"q": 1}, {"p": 1, "r": 1}]),
    ({"$ref": "#/$defs/x", "unevaluatedProperties": False, "$defs": {"x": a(p=INT)}}, [{}, {"p": 1}], [{"q": 1}]),
    ({**a(p=INT), "unevaluatedProperties": STR}, [{"p": 1}, {"p": 1, "q": "a"}], [{"q": 1}]),
    ({**OBJECT, "oneOf": [{"properties": {"p": STR}, "required": ["p"]}, {"properties": {"q": STR}, "required": ["q"]}],
      "unevaluatedProperties": False}, [{"p": ""}, {"q": ""}], [{}, {"p": "", "q": ""}, {"p": "", "r": ""}]),
    ({**a(p=INT), "dependentSchemas": {"p": a(q=INT)}, "unevaluatedProperties": False}, [{}, {"p": 1, "q": 1}],
     [{"q": 1}]),
    ({**OBJECT, "patternProperties": {"^x": INT, "y$": INT}, **SHUT}, [{}, {"x": 1, "y": 2, "xy": 3}],
     [{"z": 1}, {"x": "a"}]),
    ({**OBJECT, "patternProperties": {"^x": INT}}, [{"x": 1}, {"z": "a"}], [{"xz": "a"}]),
    ({**a(p=True, q=False)}, [{}, {"p": 1}, {"z": 1}], [{"q": 1}]),
    ({**OBJECT, "required": ["b", "a"], "properties": {"a": INT}}, [{"a": 1, "b": None}], [{"a": 1}, {}]),
    ({"properties": {"p": INT}}, [{"p": 1}, 1, "a", []], [{"p": "a"}]),
]  # fmt: skip
ARRAYS: Rows = [
    ({**ARRAY, "items": INT, "uniqueItems": False}, [[], [1, 1]], [["a"]]),
    ({**ARRAY, "maxItems": 1, "uniqueItems": True}, [[], [1]], [[1, 1], [1, 2]]),
    ({**ARRAY, "items": {"enum": ["a", "b", "c"]}, "uniqueItems": True}, [[], ["a"], ["c", "a", "b"]],
     [["a", "a"], ["b", "c", "b"], ["d"]]),
    ({**ARRAY, "items": {"type": "boolean"}, "uniqueItems": True}, [[], [True, False]], [[True, True]]),
    ({**ARRAY, "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 2}, [[1, 2], [2, 1]], [[1], [1, 1]]),
    ({**ARRAY, "items": {"const": 0}, "uniqueItems": True}, [[], [0]], [[0, 0]]),
    ({**ARRAY, "prefixItems": [STR, INT], "items": False, "uniqueItems": True}, [[], ["a", 1]], [[1], ["a", 1, 2]]),
    ({**ARRAY, "contains": INT, "maxItems": 3}, [[1], ["a", 1], ["a", 1, 2]], [[], ["a"], ["a", "b", "c", 1]]),
    ({**ARRAY, "contains": INT, "minContains": 2, "maxItems": 3}, [[1, 2], [1, "a", 2]], [[1], [1, "a", "b"]]),
    ({**ARRAY, "contains": INT, "minContains": 0}, [[], ["a"]], [3]),
    ({**ARRAY, "contains": STR, "maxContains": 0, "minContains": 0}, [[], [1]], [["a"], [1, "a"]]),
    ({**ARRAY, "contains": True}, [[1], ["a"]], [[]]),
    ({**ARRAY, "contains": True, "minContains": 2, "maxContains": 3}, [[1, 1], [1, 2, 3]], [[1], [1, 2, 3, 4]]),
    ({"type": ["array", "null"], "contains": False}, [None], [[], [1]]),
    ({**ARRAY, "prefixItems": [STR], "unevaluatedItems": False}, [[], ["a"]], [[1], ["a", 1]]),
    ({**ARRAY, "allOf": [{"prefixItems": [STR, INT]}], "unevaluatedItems": NULL}, [["a"], ["a", 1, None]],
     [["a", 1, 2], ["a", "b"]]),
    ({**ARRAY, "anyOf": [{"items": INT}, {"prefixItems": [STR]}], "unevaluatedItems": False}, [[], [1, 2], ["a"]],
     [["a", 1], [None]]),
    ({**ARRAY, "prefixItems": [STR], "items": INT}, [[], ["a"], ["a", 1, 2]], [[1], ["a", "b"]]),
    ({**ARRAY, "prefixItems": [True], "items": False, "minItems": 1}, [[1], ["a"]], [[], [1, 2]]),
    ({**ARRAY, "items": [STR, INT], "additionalItems": False, **SEVEN}, [[], ["a", 1]], [[1], ["a", 1, 2]]),
    ({**ARRAY, "items": [STR], "additionalItems": INT, **NINE}, [["a"], ["a", 1, 2]], [["a", "b"]]),
    ({**ARRAY, "items": [STR], **OLD}, [[], ["a"], ["a", None]], [[1]]),
    ({**ARRAY, "items": INT, "additionalItems": False, **SEVEN}, [[1, 2]], [["a"]]),
    ({**ARRAY, "items": False}, [[]], [[1]]),
    ({"items": INT, "minItems": 1}, [[1], "a", {}], [[], ["a"]]),
]  # fmt: skip
TREE = {"$defs": {"t": {**a(n=INT, c={"type": "array", "items": {"$ref": "#/$defs/t"}}), **SHUT}}, "$ref": "#/$defs/t"}
REFERENCES: Rows = [
    ({"$ref": "#/$defs/x", "$defs": {"x": INT}}, [1], ["a"]),
    ({"$ref": "#/definitions/x", "definitions": {"x": INT}, **SEVEN}, [1], ["a"]),
    ({"$ref": "#/$defs/x", "minimum": 3, "$defs": {"x": INT}}, [3], [2, "a"]),
    ({"allOf": [{"$ref": "#/definitions/x", "minimum": 3}], "definitions": {"x": INT}, **SEVEN}, [2, 3], ["a"]),
    ({"$ref": "#x", "$defs": {"a": {**INT, "$anchor": "x"}}}, [1], ["a"]),
    ({"$id": "http://h/a", "$ref": "b", "$defs": {"n": {**INT, "$id": "b"}}}, [1], ["a"]),
    ({"$id": "http://h/a", "$ref": "b#/$defs/x", "$defs": {"n": {"$id": "b", "$defs": {"x": INT}}}}, [1], ["a"]),
    ({"id": "http://h/a", "allOf": [{"$ref": "b"}], "definitions": {"n": {**INT, "id": "b"}}, **OLD}, [1], ["a"]),
    ({"$dynamicRef": "#x", "$defs": {"a": {**INT, "$dynamicAnchor": "x"}}}, [1], ["a"]),
    ({"$dynamicAnchor": "n", **a(c={"$dynamicRef": "#n"}), **SHUT}, [{}, {"c": {"c": {}}}], [{"c": 1}, {"d": 1}]),
    ({"$recursiveAnchor": True, **a(c={"$recursiveRef": "#"}), **SHUT, **NINE}, [{}, {"c": {"c": {}}}], [{"c": 1}]),
    (TREE, [{}, {"n": 1, "c": [{"c": []}, {"n": 2}]}], [{"c": {}}, {"c": [1]}, {"x": 1}]),
    ({"anyOf": [INT, {"type": "array", "items": {"$ref": "#"}}]}, [1, [], [1, [[2]]]], ["a", [["a"]]]),
    ({**a(p=INT, q={"$ref": "#/properties/p"})}, [{"p": 1, "q": 2}], [{"q": "a"}]),
    ({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": INT}}, [1], ["a"]),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/y"}, "y": INT}}, [1], ["a"]),
    ({"properties": {"$ref": STR}, "type": "object"}, [{"$ref": "a"}], [{"$ref": 1}]),
    ({"const": {"$ref": "#/nowhere"}}, [{"$ref": "#/nowhere"}], [{}, 1]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), [*LOGIC, *OBJECTS, *ARRAYS, *REFERENCES], ids=lambda v: str(v)[:60])
def test_means_the_same(enforced: Judges, valid: Judges, schema: Any, good: list[Any], bad: list[Any]) -> None:
    before = copy.deepcopy(schema)
    said = [*((item, True) for item in good), *((item, False) for item in bad)]
    by_validator, by_tokens = valid(schema), enforced(schema)
    assert [(item, by_validator(item)) for item in good + bad] == said
    assert [(item, by_tokens(item)) for item in good + bad] == said
    assert schema == before  # the request's own schema stays as it is
