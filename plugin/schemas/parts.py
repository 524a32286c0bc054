"""Rewriting of the keywords that llguidance lacks, as schemas that apply beside the other keywords."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from math import prod
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.arrays import contains, unique
from chatplan.schemas.choices import Choices
from chatplan.schemas.empty import Emptiness
from chatplan.schemas.forms import pointer
from chatplan.schemas.given import Given
from chatplan.schemas.logic import CONDITIONS, Around, all_of, any_of
from chatplan.schemas.objects import counted, named
from chatplan.schemas.opposite import opposite
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.unevaluated import unevaluated
from chatplan.schemas.values import distinct

__all__ = ["Parts", "is_condition"]

WAYS = 128
BRANCHES = 300


class Parts:
    """Rewrites single keywords."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._empty = Emptiness(document)

    def of(self, node: dict[str, Any], place: str, here: Around) -> list[Node]:
        """Schemas that together say what those keywords of ``node`` say.

        Raises:
            CannotEnforce: JSON Schema cannot say it otherwise, or not briefly.
        """
        return self._merged([part for part in self._parts(node, place, here) if part is not True], place, here)

    def _parts(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        for keyword in node:
            if keyword in _REWRITTEN:
                yield from getattr(self, _REWRITTEN[keyword])(node, pointer(place, keyword), here)
        for item in node.get("allOf", ()):
            if is_condition(item):
                yield from self._parts(item, self._document.place(item, place), here)

    def _counts(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        if "maxProperties" not in node or place.endswith("maxProperties"):
            yield from counted(node, here, place)

    def _names(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        yield from named(self._document, node["propertyNames"], place)

    def _not(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        yield self._opposite(node, "not", place, here)

    def _opposite(self, node: dict[str, Any], keyword: str, place: str, here: Around) -> Node:
        return opposite(self._document, node[keyword], here.types, place, given=Given(self._empty, here.beside))

    def _if(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        then, otherwise = node.get("then", True), node.get("else", True)
        if then is True and otherwise is True:
            return
        ways = [all_of([node["if"], then])] if then is not False else []
        if otherwise is not False:
            ways.append(all_of([self._opposite(node, "if", place, here), otherwise]))
        yield any_of(ways)

    def _one(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        branches = node["oneOf"]
        beside = [*here.beside, {"not": node["not"]}] if "not" in node else here.beside
        if len(branches) > BRANCHES and not distinct(branches):
            raise CannotEnforce(f"more than {BRANCHES} branches of oneOf are too many to compare", place)
        pairs = [] if distinct(branches) else combinations(range(len(branches)), 2)
        overlaps = [pair for pair in pairs if self._overlap(beside, branches, *pair)]
        ways = []
        for index, branch in enumerate(branches):
            others = [branches[i if j == index else j] for i, j in overlaps if index in (i, j)]
            denials = [self._denied(other, [*here.beside, branch], pointer(place, index), here) for other in others]
            ways.append(all_of([branch, *denials]))
        yield any_of(ways)

    def _overlap(self, beside: Sequence[Node], branches: list[Node], one: int, other: int) -> bool:
        return not self._empty.proven(*beside, branches[one], branches[other])

    def _denied(self, node: Node, beside: list[Node], place: str, here: Around) -> Node:
        try:
            denial = opposite(self._document, node, here.types, place, given=Given(self._empty, beside))
        except CannotEnforce as error:
            reason = f"the branches of oneOf can overlap, and {error.reason}"
            raise CannotEnforce(reason, place) from None
        if isinstance(denial, dict) and denial.keys() == {"anyOf"}:
            return any_of([way for way in denial["anyOf"] if not self._empty.proven(*beside, way)])
        return denial

    def _dependent(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        keyword = place.rpartition("/")[2]
        for name, rule in node[keyword].items():
            extra = {"required": list(rule)} if keyword == "dependentRequired" else rule
            if extra is True or extra == {"required": []}:
                continue
            if name in here.required:
                yield all_of([{"type": "object"}, extra]) if here.types == {"object"} else self._when(name, extra)
            else:
                yield self._when(name, extra)

    def _when(self, name: str, rule: Node) -> Node:
        return any_of([{"properties": {name: False}}, all_of([{"type": "object", "required": [name]}, rule])])

    def _contains(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        yield from contains(self._document, node, here, place)

    def _unique(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        if node["uniqueItems"]:
            yield from unique(self._document, self._empty, node, here, place)

    def _unevaluated(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        yield from unevaluated(self._document, self._empty, node, place.rpartition("/")[2], place)

    def _merged(self, parts: list[Node], place: str, here: Around) -> list[Node]:
        """The parts, several choices made one where they exclude each other's ways: llguidance multiplies them out."""
        groups = [part["anyOf"] for part in parts if isinstance(part, dict) and part.keys() == {"anyOf"}]
        if len(groups) < 2 or prod(map(len, groups)) <= 8:
            return parts
        rest = [part for part in parts if not (isinstance(part, dict) and part.keys() == {"anyOf"})]
        choices = Choices(self._document, self._empty, here)
        for group in groups:
            choices.add(group)
            if len(choices.ways) > WAYS:
                raise CannotEnforce(f"its conditions have more than {WAYS} ways to hold together", place)
        return [*rest, any_of([all_of(way) for way in choices.ways])]


def is_condition(node: Node) -> bool:
    """Whether a schema is nothing but a condition, so that it can be merged with others."""
    return isinstance(node, dict) and bool(node) and node.keys() <= CONDITIONS


_REWRITTEN = {
    "minProperties": "_counts",
    "maxProperties": "_counts",
    "propertyNames": "_names",
    "not": "_not",
    "if": "_if",
    "oneOf": "_one",
    "dependentRequired": "_dependent",
    "dependentSchemas": "_dependent",
    "contains": "_contains",
    "uniqueItems": "_unique",
    "unevaluatedProperties": "_unevaluated",
    "unevaluatedItems": "_unevaluated",
}
