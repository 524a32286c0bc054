"""Which part of a schema is named when a library refuses the whole."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chatplan.schemas import places
from chatplan.schemas.places import place_of

BAD: dict[str, Any] = {"format": "bad"}
GOOD: dict[str, Any] = {"format": "good"}


def works(schema: Any) -> bool:
    """A library that refuses the format "bad" wherever it applies, and follows references to definitions."""
    return not _is_bad(schema, schema, ())


def _is_bad(schema: Any, whole: Any, inside: tuple[str, ...]) -> bool:
    if isinstance(schema, list):
        return any(_is_bad(item, whole, inside) for item in schema)
    if not isinstance(schema, dict):
        return False
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name and name not in inside and _is_bad(_definitions(whole)[name], whole, (*inside, name)):
        return True
    inner = [value for key, value in schema.items() if key not in ("$defs", "definitions")]
    return schema.get("format") == "bad" or any(_is_bad(value, whole, inside) for value in inner)


def _definitions(whole: Any) -> dict[str, Any]:
    return {**whole.get("definitions", {}), **whole.get("$defs", {})}


PLACES: list[tuple[Any, str]] = [
    (BAD, ""),
    ({"properties": {"a": GOOD, "b": BAD}}, "/properties/b"),
    ({"properties": {"a/b~c": {"items": BAD}}}, "/properties/a~1b~0c/items"),
    ({"items": {"anyOf": [GOOD, {"allOf": [GOOD, BAD]}]}}, "/items/anyOf/1/allOf/1"),
    ({"prefixItems": [GOOD, BAD], "additionalProperties": GOOD}, "/prefixItems/1"),
    ({"items": [GOOD, BAD]}, "/items/1"),
    ({"patternProperties": {"^x": BAD}}, "/patternProperties/^x"),
    ({"if": GOOD, "then": GOOD, "else": BAD}, "/else"),
    ({"dependentSchemas": {"a": BAD}}, "/dependentSchemas/a"),
    ({"properties": {"a": BAD, "b": BAD}}, "/properties/a"),
    ({"format": "bad", "properties": {"a": GOOD}}, ""),
    ({"$ref": "#/$defs/x", "$defs": {"x": BAD, "y": GOOD}}, "/$defs/x"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"items": BAD}}}, "/$defs/x/items"),
    ({"$ref": "#/definitions/x", "definitions": {"x": {"items": BAD}}}, "/definitions/x/items"),
    ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"properties": {"b": BAD}}}},
     "/$defs/x/properties/b"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/y"}, "y": BAD}}, "/$defs/y"),
    ({"$ref": "#/$defs/x", "$defs": {"x": {"not": BAD, "items": {"$ref": "#/$defs/x"}}}}, "/$defs/x/not"),
    ({"items": BAD, "$defs": {"x": BAD}}, "/items"),
    (False, ""),
    (3, ""),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "place"), PLACES, ids=lambda value: str(value)[:60])
def test_the_smallest_part_that_fails(schema: Any, place: str) -> None:
    assert place_of(schema, works, seconds=60) == place


def test_a_library_that_raises_refuses() -> None:
    def raises(part: Any) -> bool:
        if not works(part):
            raise ValueError
        return True

    assert place_of({"properties": {"a": GOOD, "b": BAD}}, raises, seconds=60) == "/properties/b"


def test_parts_that_fail_only_together_are_the_whole() -> None:
    schema = {"allOf": [{"properties": {"a": GOOD}}, {"properties": {"b": GOOD}}]}
    assert place_of(schema, lambda part: "allOf" not in part, seconds=60) == ""


def test_definitions_go_along() -> None:
    seen: list[Any] = []

    def noted(part: Any) -> bool:
        seen.append(part)
        return True

    place_of({"items": {"type": "null"}, "not": True, "$defs": {"x": GOOD}}, noted, seconds=60)
    assert {"type": "null", "$defs": {"x": GOOD}} in seen
    assert True in seen


def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now, tried = 100.0, 0
    monkeypatch.setattr(places, "time", SimpleNamespace(monotonic=lambda: now))

    def slow(part: Any) -> bool:
        nonlocal now, tried
        now, tried = now + 0.02, tried + 1
        return works(part)

    many = {f"p{n}": GOOD for n in range(1000)}
    assert place_of({"properties": many, **BAD}, slow, seconds=0.19) == ""
    assert tried == 10
    assert place_of({"properties": {"a": {"properties": {"b": BAD}}}}, works, seconds=0) == ""
    deep = {"properties": {"a": {"properties": {**many, "b": BAD}}}}
    assert place_of(deep, slow, seconds=1) == "/properties/a"  # the smallest that was seen to fail
