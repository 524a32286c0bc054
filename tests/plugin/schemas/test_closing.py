"""Schemas whose objects have no properties but those they list."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan.errors import RequestError
from chatplan.schemas.closing import can_close, closed_schema

A: dict[str, Any] = {"properties": {"a": {}}}
B: dict[str, Any] = {"properties": {"b": {}}}
SHUT = {"additionalProperties": False}
CA, CB = {**A, **SHUT}, {**B, **SHUT}

CLOSED: list[tuple[Any, Any]] = [
    (A, CA),
    ({"type": "object"}, {"type": "object", **SHUT}),
    ({"type": ["object", "null"]}, {"type": ["object", "null"], **SHUT}),
    ({"patternProperties": {"a": A}}, {"patternProperties": {"a": CA}, **SHUT}),
    ({**A, "additionalProperties": True}, {**A, "additionalProperties": True}),
    ({**A, "additionalProperties": B}, {**A, "additionalProperties": CB}),
    ({}, {}),
    (True, True),
    ({"type": "string"}, {"type": "string"}),
    ({"items": A, "prefixItems": [B, True], "contains": A}, {"items": CA, "prefixItems": [CB, True], "contains": CA}),
    ({"properties": {"x": A}}, {"properties": {"x": CA}, **SHUT}),
    ({"anyOf": [A, B]}, {"anyOf": [CA, CB]}),
    ({"oneOf": [A, {"type": "null"}]}, {"oneOf": [CA, {"type": "null"}]}),
    ({"allOf": [A]}, {"allOf": [CA]}),
    # One object, described by its branches: closing the outside as well would leave it no properties.
    ({"type": "object", "anyOf": [A, B]}, {"type": "object", "anyOf": [CA, CB]}),
    ({"type": "object", "allOf": [A]}, {"type": "object", "allOf": [CA]}),
    ({"type": "object", "$ref": "#/$defs/a", "$defs": {"a": A}}, {"type": "object", "$ref": "#/$defs/a",
                                                                  "$defs": {"a": CA}}),
    ({"$ref": "#/$defs/a", "$defs": {"a": A}}, {"$ref": "#/$defs/a", "$defs": {"a": CA}}),
    # Data and names are no schemas.
    ({"enum": [{"properties": 1, "allOf": []}]}, {"enum": [{"properties": 1, "allOf": []}]}),
    ({"properties": {"if": {}, "allOf": {}, "properties": A}}, {"properties": {"if": {}, "allOf": {}, "properties": CA},
                                                                **SHUT}),
    ({"default": {**A, "if": {}}, "type": "string"}, {"default": {**A, "if": {}}, "type": "string"}),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "closed"), CLOSED, ids=lambda value: str(value)[:50])
def test_closed(schema: Any, closed: Any) -> None:
    before = repr(schema)
    assert closed_schema(schema, "x") == closed
    assert repr(schema) == before  # the request's own schema stays as it is


TOGETHER: list[Any] = [
    {"allOf": [A, B]},
    {**A, "allOf": [B]},
    {**A, "anyOf": [B]},
    {**A, "oneOf": [B, {}]},
    {**A, "$ref": "#/$defs/b", "$defs": {"b": B}},
    {"$ref": "#/$defs/b", "anyOf": [A], "$defs": {"b": B}},
    {"if": A, "then": B},
    {**A, "if": {}, "then": B},
    {"dependentSchemas": {"a": B}},
    {"dependencies": {"a": B}},
    {"items": {"allOf": [A, B]}},
    {"properties": {"x": {"allOf": [A, B]}}},
    {"$defs": {"x": {"allOf": [A, B]}}},
    {"anyOf": [{"allOf": [A, B]}]},
    {"allOf": 3},
]


@pytest.mark.parametrize("schema", TOGETHER, ids=str)
def test_objects_described_in_parts_cannot_be_closed(schema: Any) -> None:
    assert not can_close(schema)
    with pytest.raises(RequestError, match="describe one object together") as caught:
        closed_schema(schema, "structured_outputs.json")
    assert caught.value.param == "structured_outputs.json"
