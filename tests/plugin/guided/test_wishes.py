"""From request fields to a constraint."""

from __future__ import annotations

from enum import Enum
from typing import Any

import pytest
from pydantic import BaseModel

from chatplan.errors import RequestError
from chatplan.guided.constraint import Constraint
from chatplan.guided.wishes import wished
from chatplan.request import parse_request

SCHEMA = {"type": "object", "properties": {"é": {"type": "string"}}}
CLOSED = {**SCHEMA, "additionalProperties": False}
TAG = {"type": "const_string", "value": "a"}


class City(BaseModel):
    name: str


CITY = {**City.model_json_schema(), "additionalProperties": False}


class Side(Enum):
    LEFT = "left"


def wish(**fields: Any) -> Constraint | None:
    return wished(parse_request({"messages": [{"role": "user", "content": "Hi"}], **fields}))


def structured(**keys: Any) -> dict[str, Any]:
    return {"structured_outputs": keys}


def json_schema(schema: Any, **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, **more}}}


WISHES: list[tuple[dict[str, Any], str, Any, str, str]] = [
    ({"guided_json": SCHEMA}, "json", SCHEMA, "[ ]?", "guided_json"),
    ({"guided_json": '{"type": "null"}'}, "json", {"type": "null"}, "[ ]?", "guided_json"),
    ({"guided_json": "true"}, "json", True, "[ ]?", "guided_json"),
    ({"guided_json": {}}, "json", {}, "[ ]?", "guided_json"),
    ({"guided_json": City}, "json", CITY, "[ ]?", "guided_json"),
    ({"guided_json": Side}, "json", {"enum": ["left"], "title": "Side", "type": "string"}, "[ ]?", "guided_json"),
    ({"guided_json": SCHEMA, "guided_whitespace_pattern": "\n*"}, "json", SCHEMA, "\n*", "guided_json"),
    ({"guided_json": SCHEMA, "guided_whitespace_pattern": ""}, "json", SCHEMA, "", "guided_json"),
    ({"guided_choice": ["é", "\x00", ""]}, "choice", ["é", "\x00", ""], "[ ]?", "guided_choice"),
    ({"response_format": {"type": "json_object"}}, "json", {"type": "object"}, "[ ]?", "response_format"),
    (json_schema(SCHEMA), "json", SCHEMA, "[ ]?", "response_format.json_schema.schema"),
    (json_schema(SCHEMA, strict=True), "json", SCHEMA, "[ ]?", "response_format.json_schema.schema"),
    ({"response_format": {"type": "structural_tag", "format": TAG}}, "structural_tag",
     {"type": "structural_tag", "format": TAG}, "[ ]?", "response_format"),
    ({"response_format": {"type": "structural_tag", "structures": [], "triggers": ["a"]}}, "structural_tag",
     {"type": "structural_tag", "structures": [], "triggers": ["a"]}, "[ ]?", "response_format"),
    (structured(json=SCHEMA), "json", SCHEMA, "[ ]?", "structured_outputs.json"),
    (structured(json='{"type": "null"}'), "json", {"type": "null"}, "[ ]?", "structured_outputs.json"),
    (structured(json=City), "json", CITY, "[ ]?", "structured_outputs.json"),
    (structured(json=SCHEMA, disable_any_whitespace=True), "json", SCHEMA, "", "structured_outputs.json"),
    (structured(json=SCHEMA, whitespace_pattern="\n"), "json", SCHEMA, "\n", "structured_outputs.json"),
    (structured(json=SCHEMA, disable_additional_properties=True), "json", CLOSED, "[ ]?", "structured_outputs.json"),
    (structured(json=SCHEMA, whitespace_pattern=""), "json", SCHEMA, "", "structured_outputs.json"),
    ({**structured(json=SCHEMA), "guided_whitespace_pattern": "\n"}, "json", SCHEMA, "\n", "structured_outputs.json"),
    (structured(json_object=True), "json", {"type": "object"}, "[ ]?", "structured_outputs.json_object"),
    (structured(json_object=True, disable_any_whitespace=True), "json", {"type": "object"}, "",
     "structured_outputs.json_object"),
    (structured(json_object=True, disable_additional_properties=True), "json",
     {"type": "object", "additionalProperties": False}, "[ ]?", "structured_outputs.json_object"),
    (structured(structural_tag=TAG, whitespace_pattern="\n"), "structural_tag", TAG, "\n",
     "structured_outputs.structural_tag"),
    ({**json_schema(SCHEMA), "guided_whitespace_pattern": "\n"}, "json", SCHEMA, "\n",
     "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object"}, "guided_whitespace_pattern": "\n"}, "json", {"type": "object"}, "\n",
     "response_format"),
    ({"response_format": {"type": "structural_tag", "format": TAG}, "guided_whitespace_pattern": ""}, "structural_tag",
     {"type": "structural_tag", "format": TAG}, "", "response_format"),
    (structured(choice=["a"]), "choice", ["a"], "[ ]?", "structured_outputs.choice"),
    (structured(structural_tag=TAG), "structural_tag", TAG, "[ ]?", "structured_outputs.structural_tag"),
    (structured(structural_tag='{"type": "const_string", "value": "a"}', disable_any_whitespace=True),
     "structural_tag", TAG, "", "structured_outputs.structural_tag"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "kind", "value", "whitespace", "param"), WISHES, ids=lambda value: str(value)[:40])
def test_wishes(fields: dict[str, Any], kind: str, value: Any, whitespace: str, param: str) -> None:
    found = wish(**fields)
    assert found is not None
    assert (found.kind, found.value, found.whitespace, found.param) == (kind, value, whitespace, param)


TEXTS: list[tuple[dict[str, Any], str, str, str]] = [
    ({"guided_regex": "a/b\n"}, "regex", "a/b\n", "guided_regex"),
    ({"guided_regex": ""}, "regex", "", "guided_regex"),
    ({"guided_grammar": "start: x"}, "grammar", "start: x", "guided_grammar"),
    (structured(regex="a"), "regex", "a", "structured_outputs.regex"),
    (structured(grammar="start: x"), "grammar", "start: x", "structured_outputs.grammar"),
]


@pytest.mark.parametrize(("fields", "kind", "text", "param"), TEXTS)
def test_texts(fields: dict[str, Any], kind: str, text: str, param: str) -> None:
    found = wish(**fields)
    assert found is not None
    assert (found.kind, found.text, found.param) == (kind, text, param)


def test_lists_of_models() -> None:
    found = wish(guided_json=list[City])
    assert found is not None
    assert found.value["type"] == "array"


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"guided_json": None}], ids=str)
def test_no_wish(fields: dict[str, Any]) -> None:
    assert wish(**fields) is None


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


WRONG: list[tuple[dict[str, Any], str, str]] = [
    ({"guided_json": "3"}, "guided_json", "should be a JSON schema"),
    ({"guided_json": "[]"}, "guided_json", "should be a JSON schema"),
    ({"guided_json": "{"}, "guided_json", "is no JSON"),
    ({"guided_json": ""}, "guided_json", "is no JSON"),
    ({"guided_json": '{"items":' * 50_000}, "guided_json", "is no JSON"),
    ({"guided_json": deep(50_000)}, "guided_json", "nested too deeply"),
    ({"guided_json": {"enum": {1}}}, "guided_json", "is no JSON"),
    ({"guided_json": {"const": object()}}, "guided_json", "is no JSON"),
    ({"guided_json": {"const": 10**5000}}, "guided_json", "is no JSON"),
    (structured(json="3"), "structured_outputs.json", "should be a JSON schema"),
    (structured(structural_tag="[]"), "structured_outputs.structural_tag", "should be an object"),
    (structured(structural_tag="{"), "structured_outputs.structural_tag", "is no JSON"),
    (structured(json=deep(50_000), disable_additional_properties=True), "structured_outputs", "nested too deeply"),
    (structured(json={"allOf": [{"properties": {}}, {}]}, disable_additional_properties=True),
     "structured_outputs.json", "describe one object together"),
    (json_schema({"enum": {1}}), "response_format", "is no JSON"),
    # What would have no effect.
    (structured(regex="a", whitespace_pattern=" "), "structured_outputs.whitespace_pattern", "no effect on regex"),
    (structured(choice=["a"], disable_any_whitespace=True), "structured_outputs.disable_any_whitespace", "no effect"),
    (structured(structural_tag=TAG, disable_additional_properties=True),
     "structured_outputs.disable_additional_properties", "no effect on structural_tag"),
    (structured(json={}, disable_any_whitespace=True, whitespace_pattern=" "), "structured_outputs.whitespace_pattern",
     "only one of"),
    ({**structured(json={}, whitespace_pattern=" "), "guided_whitespace_pattern": ""}, "guided_whitespace_pattern",
     "only one of"),
    ({**structured(json={}, disable_any_whitespace=True), "guided_whitespace_pattern": ""},
     "guided_whitespace_pattern", "only one of structured_outputs.disable_any_whitespace, guided_whitespace_pattern"),
    (structured(grammar="a", disable_additional_properties=True), "structured_outputs.disable_additional_properties",
     "no effect on grammar"),
    (structured(regex="a", disable_any_whitespace=True), "structured_outputs.disable_any_whitespace", "no effect"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "param", "reason"), WRONG, ids=lambda value: value if isinstance(value, str) else "x"
)
def test_wrong_wishes_name_their_field(fields: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        wish(**fields)
    assert caught.value.param == param
