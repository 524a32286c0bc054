"""What a function takes, as the schema of its calls."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan.errors import RequestError
from chatplan.guided.arguments import arguments_schema

A: dict[str, Any] = {"properties": {"a": {"type": "integer"}}}
SHUT: dict[str, Any] = {"additionalProperties": False}
TOGETHER: dict[str, Any] = {**A, "allOf": [{"properties": {"b": {}}}]}

SCHEMAS: list[tuple[Any, Any]] = [
    (None, {"type": "object", "properties": {}, **SHUT}),
    ({}, {"type": "object", **SHUT}),
    (A, {**A, "type": "object", **SHUT}),
    ({**A, "type": "object"}, {**A, "type": "object", **SHUT}),
    ({**A, "type": ["null", "object"]}, {**A, "type": "object", **SHUT}),
    ({**A, "additionalProperties": True}, {**A, "type": "object", "additionalProperties": True}),
    (TOGETHER, {**TOGETHER, "type": "object"}),  # cannot be closed, so it stays open
]


@pytest.mark.parametrize(("parameters", "schema"), SCHEMAS, ids=str)
def test_arguments_are_an_object_of_what_is_listed(parameters: Any, schema: Any) -> None:
    before = repr(parameters)
    assert arguments_schema(parameters, "x") == schema
    assert repr(parameters) == before


REFUSED: list[tuple[Any, str, str]] = [
    ({"type": "string"}, "tools[0].parameters.type", "should be object"),
    ({"type": ["string", "null"]}, "tools[0].parameters.type", "should be object"),
    ({"properties": {"a": {"type": "x"}}}, "tools[0].parameters", "at /properties/a/type"),
    ({"properties": {"a": {"pattern": "(?=a)"}}}, "tools[0].parameters", "looks ahead"),
    ({"required": ["a"], "properties": {"a": False}}, "tools[0].parameters", "no JSON text"),
]


@pytest.mark.parametrize(("parameters", "param", "reason"), REFUSED, ids=str)
def test_parameters_that_cannot_be_enforced_name_their_field(parameters: Any, param: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        arguments_schema(parameters, "tools[0].parameters")
    assert caught.value.param == param
