"""Rewriting of ``contains`` and ``uniqueItems``, for arrays that are short or have few values."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.empty import Emptiness
from chatplan.schemas.logic import Around, any_of
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import atoms, same, type_names

__all__ = ["contains", "unique"]

SHORT = 6
FEW = 4


def contains(document: Document, node: dict[str, Any], around: Around, place: str) -> Iterator[Node]:
    """``contains`` with ``minContains`` and ``maxContains``.

    Raises:
        CannotEnforce: the array may be long.
    """
    rule, least, most = node["contains"], node.get("minContains", 1), node.get("maxContains")
    if "array" not in around.types or (least == 0 and most is None):
        return
    if rule is True or rule == {}:
        yield {"minItems": least, **({} if most is None else {"maxItems": most})}
    elif rule is False:
        yield _no_array(around) if least else True
    elif most == 0:
        yield {"items": {"not": rule}} if not least else _no_array(around)
    elif node.get("maxItems", SHORT + 1) > SHORT or most is not None:
        raise CannotEnforce("that an array of any length contains something cannot be enforced", place)
    else:
        yield any_of([_no_array(around), *_positions(rule, least, node["maxItems"])])


def _no_array(around: Around) -> Node:
    others = around.types - {"array"}
    return {"type": type_names(others)} if others else False


def _positions(rule: Node, least: int, length: int) -> Iterator[Node]:
    for places in combinations(range(length), least):
        prefix = [rule if index in places else True for index in range(places[-1] + 1)]
        yield {"type": "array", "prefixItems": prefix, "minItems": len(prefix)}


def unique(document: Document, empty: Emptiness, node: dict[str, Any], around: Around, place: str) -> Iterator[Node]:
    """``uniqueItems``.

    Raises:
        CannotEnforce: the items can have many values.
    """
    prefix, rest = node.get("prefixItems", []), node.get("items", True)
    if "array" not in around.types or node.get("maxItems", 2) < 2 or (rest is False and len(prefix) < 2):
        return
    values = _values(document, rest)
    if rest is False and all(empty.proven(one, other) for one, other in combinations(prefix, 2)):
        return
    if prefix or values is None or len(values) > FEW:
        raise CannotEnforce("that the items of an array are unique cannot be enforced", place)
    orders = ([{"const": value} for value in order] for order in permutations(values))
    whole = [{"type": "array", "prefixItems": order, "items": False} for order in orders]
    yield any_of([_no_array(around), *whole]) if values else {"maxItems": 0}


def _values(document: Document, node: Node, depth: int = 0) -> list[Any] | None:
    """All values that a schema may match, if they are few."""
    if isinstance(node, bool) or depth > 8:
        return [] if node is False else None
    if "const" in node or "enum" in node:
        values: list[Any] = []
        for value in node["enum"] if "enum" in node else [node["const"]]:
            if not any(same(value, other) for other in values):
                values.append(value)
        return values
    if "type" in node and atoms(node["type"]) <= {"null", "boolean"}:
        return [value for name, value in _SMALL if name in atoms(node["type"])]
    return _values(document, document.target(node["$ref"]), depth + 1) if "$ref" in node else None


_SMALL = (("null", None), ("boolean", False), ("boolean", True))
