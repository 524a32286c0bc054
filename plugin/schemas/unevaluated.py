"""Rewriting of ``unevaluatedProperties`` and ``unevaluatedItems``: for each way to match, what it leaves over."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.empty import Emptiness
from chatplan.schemas.logic import all_of, any_of
from chatplan.schemas.reader import Document, Node

__all__ = ["unevaluated"]

WAYS = 64
DEPTH = 10


class _Way(NamedTuple):
    """One way to match a schema: what holds then, and what has been evaluated then."""

    holds: tuple[Node, ...] = ()
    names: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    prefix: int = 0
    everything: bool = False

    def __add__(self, other: _Way) -> _Way:  # type: ignore[override]
        prefix = max(self.prefix, other.prefix)
        everything = self.everything or other.everything
        names, patterns = self.names + other.names, self.patterns + other.patterns
        return _Way(self.holds + other.holds, names, patterns, prefix, everything)


def unevaluated(document: Document, empty: Emptiness, node: dict[str, Any], keyword: str, place: str) -> Iterator[Node]:
    """What the keyword says, as ``additionalProperties`` or ``items`` for each way to match the schema.

    Sources: JSON Schema 2020-12 core, sections 11.2 and 11.3.

    Raises:
        CannotEnforce: there are too many ways, or the keyword depends on which items match ``contains``.
    """
    rule = node[keyword]
    if rule is True or rule == {}:
        return
    finder = _Finder(document, empty, keyword, place)
    rest = {key: value for key, value in node.items() if key != keyword}
    yield any_of([_closed(way, rule, keyword) for way in finder.ways(rest, 0)])


def _closed(way: _Way, rule: Node, keyword: str) -> Node:
    if way.everything:
        return all_of(way.holds)
    if keyword == "unevaluatedItems":
        return all_of([*way.holds, {"prefixItems": [True] * way.prefix, "items": rule}])
    names, patterns = dict.fromkeys(way.names, True), dict.fromkeys(way.patterns, True)
    return all_of([*way.holds, {"properties": names, "patternProperties": patterns, "additionalProperties": rule}])


class _Finder:
    def __init__(self, document: Document, empty: Emptiness, keyword: str, place: str) -> None:
        self._document, self._empty, self._place = document, empty, place
        self._tries = 1000
        self._about = "properties" if keyword == "unevaluatedProperties" else "items"

    def ways(self, node: Node, depth: int) -> list[_Way]:
        """The ways to match a schema, which together are all."""
        if isinstance(node, bool):
            return [_Way()] if node else []
        if depth > DEPTH:
            raise CannotEnforce("what is left unevaluated depends on a schema that refers to itself", self._place)
        found = [self._own(node)]
        for group in self._groups(node, depth):
            found = [one + other for one in found for other in group]
            if len(found) > WAYS:
                raise CannotEnforce(f"there are more than {WAYS} ways to leave something unevaluated", self._place)
        return found

    def _own(self, node: dict[str, Any]) -> _Way:
        if self._about == "properties":
            everything = bool(node.keys() & {"additionalProperties", "unevaluatedProperties"})
            return _Way((), tuple(node.get("properties", ())), tuple(node.get("patternProperties", ())), 0, everything)
        everything = bool(node.keys() & {"items", "unevaluatedItems"})
        if "contains" in node and not everything:
            raise CannotEnforce('"contains" beside "unevaluatedItems" cannot be enforced', self._place)
        return _Way((), (), (), len(node.get("prefixItems", ())), everything)

    def _groups(self, node: dict[str, Any], depth: int) -> Iterator[list[_Way]]:
        """For each keyword that applies schemas in place, the ways to match it."""
        for item in node.get("allOf", ()):
            yield self.ways(item, depth + 1)
        if "$ref" in node:
            yield self.ways(self._document.target(node["$ref"]), depth + 1)
        if "anyOf" in node:
            yield self._some(node["anyOf"], depth)
        if "oneOf" in node:
            yield [way for item in node["oneOf"] for way in self._with(item, depth)]
        if "if" in node:
            yes = [
                one + other
                for one in self._with(node["if"], depth)
                for other in self._with(node.get("then", True), depth)
            ]
            no = self._with(node.get("else", True), depth)
            yield [*yes, *(_Way(({"not": node["if"]},)) + way for way in no)]
        for name, rule in node.get("dependentSchemas", {}).items():
            there = _Way(({"type": "object", "required": [name]},))
            yield [_Way(({"properties": {name: False}},)), *(there + way for way in self._with(rule, depth))]

    def _with(self, node: Node, depth: int) -> list[_Way]:
        return [_Way((node,)) + way for way in self.ways(node, depth + 1)]

    def _some(self, nodes: list[Node], depth: int) -> list[_Way]:
        """Any of these may match, and several at once evaluate more."""
        found: list[_Way] = []
        for chosen in (some for size in range(1, len(nodes) + 1) for some in combinations(nodes, size)):
            if not self._empty.proven(*chosen):
                ways = [_Way()]
                for item in chosen:
                    ways = [one + other for one in ways for other in self._with(item, depth)]
                found += ways
            self._tries -= 1
            if len(found) > WAYS or self._tries < 0:
                raise CannotEnforce(f"there are more than {WAYS} ways to leave something unevaluated", self._place)
        return found
