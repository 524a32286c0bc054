"""Several choices between schemas as one choice."""

from __future__ import annotations

from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.empty import Emptiness
from chatplan.schemas.given import Given
from chatplan.schemas.logic import Around, all_of
from chatplan.schemas.opposite import opposite
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import type_names

__all__ = ["Choices"]


class Choices:
    """Ways to match one of each group of schemas at once.

    Attributes:
        ways: schemas that hold together. Those that no value matches are left out, and so are schemas in one that hold
            anyway because of another.
    """

    def __init__(self, document: Document, empty: Emptiness, here: Around) -> None:
        self.ways: list[list[Node]] = [[]]
        self._document, self._empty, self._here = document, empty, here
        self._opposites: dict[int, Node | None] = {}
        self._implied: dict[tuple[int, int], bool] = {}
        others = here.types - {"object"}
        self._others: Node = {"type": type_names(others)} if others and "object" in here.types else False
        self._kept: list[Node] = []  # so that no two have the same id

    def add(self, group: list[Node]) -> None:
        """One of these schemas matches, too."""
        group = self._by_type(group)
        self._kept += group
        found = [
            self._joined(way, node)
            for way in self.ways
            for node in group
            if not self._empty.proven(*self._here.beside, *way, node)
        ]
        self.ways = found

    def _by_type(self, group: list[Node]) -> list[Node]:
        """The group with what it says of objects apart from the other values, which all such ways have in common."""
        if not self._others or not any(map(_about_objects, group)):
            return group
        return [self._others, *(all_of([{"type": "object"}, node]) if _about_objects(node) else node for node in group)]

    def _joined(self, way: list[Node], node: Node) -> list[Node]:
        if any(self._implies(known, node) for known in way):
            return way
        return [*(known for known in way if not self._implies(node, known)), node]

    def _implies(self, one: Node, other: Node) -> bool:
        """Whether it is certain that what matches the one matches the other."""
        key = id(one), id(other)
        if key not in self._implied:
            contrary = self._opposite(other)
            self._implied[key] = contrary is not None and self._empty.proven(*self._here.beside, one, contrary)
        return self._implied[key]

    def _opposite(self, node: Node) -> Node | None:
        if id(node) not in self._opposites:
            given = Given(self._empty, self._here.beside)
            try:
                self._opposites[id(node)] = opposite(self._document, node, self._here.types, "", given=given)
            except CannotEnforce:
                self._opposites[id(node)] = None
        return self._opposites[id(node)]


def _about_objects(node: Node) -> bool:
    """Whether a schema matches everything but objects, and perhaps some objects."""
    return isinstance(node, dict) and (node.keys() <= _OBJECTS or _of_parts(node))


def _of_parts(node: dict[str, Any]) -> bool:
    return node.keys() == {"allOf"} and all(_about_objects(item) for item in node["allOf"])


_OBJECTS = frozenset("properties required additionalProperties patternProperties minProperties maxProperties".split())
