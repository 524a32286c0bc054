"""Rewriting of the keywords that speak of all properties of an object: how many, and of which names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import comb
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.logic import Around, any_of
from chatplan.schemas.patterns import either, length_pattern, one_of
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import atoms

__all__ = ["COUNTED", "counted", "named"]

COUNTED = {"#minProperties": "minProperties", "#maxProperties": "maxProperties"}
"""Names for the limits that llguidance can count, so that they are not rewritten again."""

WAYS = 128


def counted(node: dict[str, Any], around: Around, place: str) -> Iterator[Node]:
    """``minProperties`` and ``maxProperties`` where llguidance counts only properties without a schema of their own.

    Raises:
        CannotEnforce: too many properties may be there or not.
    """
    least = max(node.get("minProperties", 0) - len(around.required), 0)
    room = node["maxProperties"] - len(around.required) if "maxProperties" in node else None
    limits = {marked: node[keyword] for marked, keyword in COUNTED.items() if keyword in node}
    optional = [name for name in around.names if name not in around.required]
    closed = node.get("additionalProperties") is False and not node.get("patternProperties")
    if room is not None and room < 0:
        yield {"type": ["null", "boolean", "number", "string", "array"]}
    elif room == 0:
        yield {"properties": dict.fromkeys(around.required, True), "additionalProperties": False, **_bare(limits)}
    elif not optional and (least or room is not None):
        yield limits
    elif least or (room is not None and not (closed and room >= len(optional))):
        yield any_of(_ways(optional, least, room, limits, place))


def _bare(limits: dict[str, Any]) -> dict[str, Any]:
    return {marked: limit for marked, limit in limits.items() if marked == "#minProperties"}


def _ways(names: Sequence[str], least: int, room: int | None, limits: dict[str, Any], place: str) -> list[Node]:
    """Which of the properties with a name are there; others are counted."""
    most = len(names) if room is None else min(room, len(names))
    sizes = range(least + 1 if room is None else most + 1)
    if sum(comb(len(names), size) for size in sizes if size <= len(names)) > WAYS:
        raise CannotEnforce("too many properties are optional for their number to be enforced", place)
    ways: list[Node] = []
    for chosen in (some for size in sizes for some in combinations(names, size)):
        absent = {name: False for name in names if name not in chosen}
        if room is None and len(chosen) >= least:
            ways.append({"required": [*chosen]})
        else:
            ways.append({"properties": absent, "required": [*chosen], **limits})
    return ways


def named(document: Document, rule: Node, place: str) -> Iterator[Node]:
    """``propertyNames`` as a pattern or a list of names.

    Raises:
        CannotEnforce: the rule for names is more than one pattern.
    """
    for part in _parts(document, rule, 0):
        if part is True or (isinstance(part, dict) and "string" not in atoms(part.get("type", "string"))):
            yield from () if part is True else [{"additionalProperties": False}]
        elif part is False:
            yield {"additionalProperties": False}
        elif isinstance(part, dict) and "not" in part:
            yield _without(document, part["not"], place)
        elif isinstance(part, dict) and part.keys() & {"const", "enum"}:
            names = part.get("enum", [part.get("const")])
            yield {"properties": {n: True for n in names if isinstance(n, str)}, "additionalProperties": False}
        else:
            yield {"patternProperties": {_pattern(document, part, place): True}, "additionalProperties": False}


def _parts(document: Document, rule: Node, depth: int) -> Iterator[Node]:
    """A rule as rules of one keyword each, all of which hold."""
    if isinstance(rule, bool) or depth > 8:
        yield rule if isinstance(rule, bool) else {"unclear": True}
        return
    for keyword, value in rule.items():
        if keyword == "allOf":
            for item in value:
                yield from _parts(document, item, depth + 1)
        elif keyword == "$ref":
            yield from _parts(document, document.target(value), depth + 1)
        elif keyword == "minLength" and "maxLength" in rule:
            yield {"minLength": value, "maxLength": rule["maxLength"]}
        elif not (keyword == "maxLength" and "minLength" in rule) and not (
            keyword == "type" and "string" in atoms(value)
        ):
            yield {keyword: value}


def _without(document: Document, rule: Node, place: str) -> Node:
    """Names that do not match a rule."""
    parts = list(_parts(document, rule, 0))
    if len(parts) != 1 or isinstance(parts[0], bool):
        raise CannotEnforce("this rule for the names of properties cannot be enforced", place)
    part = parts[0]
    if part.keys() & {"const", "enum"}:
        return {"properties": {name: False for name in part.get("enum", [part.get("const")]) if isinstance(name, str)}}
    return {"patternProperties": {_pattern(document, part, place): False}}


def _pattern(document: Document, rule: Node, place: str) -> str:
    """A pattern for just the names that a rule allows."""
    parts = list(_parts(document, rule, 0)) if isinstance(rule, dict) else [rule]
    part = parts[0] if len(parts) == 1 else None
    if isinstance(part, dict):
        if "pattern" in part:
            return str(part["pattern"])
        if part.keys() & {"minLength", "maxLength"}:
            return length_pattern(part.get("minLength", 0), part.get("maxLength"))
        if part.keys() & {"const", "enum"}:
            return one_of(name for name in part.get("enum", [part.get("const")]) if isinstance(name, str))
        if "anyOf" in part:
            return either(_pattern(document, way, place) for way in part["anyOf"])
    raise CannotEnforce("this rule for the names of properties cannot be enforced", place)
