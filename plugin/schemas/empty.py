"""A proof, where one is easy, that no value matches several JSON schemas at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.opposite import opposite
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import ATOMS, atoms, kind, matches

__all__ = ["Emptiness", "item_rule", "property_rules"]

DEPTH = 6
EFFORT = 100_000


class Emptiness:
    """Finds out which schemas exclude each other, with a bounded effort for the whole of a document."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._effort = EFFORT

    def proven(self, *nodes: Node, depth: int = 0) -> bool:
        """Whether it is certain that no value matches all of these schemas."""
        flat: list[dict[str, Any]] = []
        choices: list[list[Node]] = []
        if not self._flatten(nodes, flat, choices, set()):
            return True
        self._effort -= len(flat)
        if depth > DEPTH or self._effort < 0:
            return False
        types = self.types(flat)
        return all(self._none(name, flat, depth) for name in types) or self._split(flat, choices, depth)

    def together(self, nodes: Sequence[Node]) -> list[dict[str, Any]]:
        """The schemas that hold for a value which matches these, those they combine or refer to as well."""
        flat: list[dict[str, Any]] = []
        return flat if self._flatten(nodes, flat, [], set()) else [{"enum": []}]

    def _flatten(
        self, nodes: Sequence[Node], flat: list[dict[str, Any]], choices: list[list[Node]], seen: set[str]
    ) -> bool:
        """Gather what holds at once; False if one of it matches nothing."""
        for node in nodes:
            if isinstance(node, bool):
                if not node:
                    return False
                continue
            flat.append(node)
            choices += [node[keyword] for keyword in ("anyOf", "oneOf") if keyword in node]
            inner = list(node.get("allOf", ()))
            if "$ref" in node and node["$ref"] not in seen:
                seen.add(node["$ref"])
                inner.append(self._document.target(node["$ref"]))
            if not self._flatten(inner, flat, choices, seen):
                return False
        return True

    def _split(self, flat: list[dict[str, Any]], choices: list[list[Node]], depth: int) -> bool:
        """Whether each way through a choice is empty."""
        rest = [{key: node[key] for key in node if key not in ("anyOf", "oneOf", "allOf", "$ref")} for node in flat]
        groups = [*choices, *self._denials(flat)]
        for index, group in enumerate(groups):
            others = [{"anyOf": other} for other in groups[:index] + groups[index + 1 :] if len(groups) <= 3]
            if len(group) <= 24 and all(self.proven(*rest, *others, way, depth=depth + 1) for way in group):
                return True
        return False

    def _denials(self, flat: list[dict[str, Any]]) -> Iterator[list[Node]]:
        types = self.types(flat)
        for node in flat:
            if "not" in node:
                try:
                    denial = opposite(self._document, node["not"], types, "")
                except CannotEnforce:
                    continue
                yield denial["anyOf"] if isinstance(denial, dict) and denial.keys() == {"anyOf"} else [denial]

    def types(self, flat: list[dict[str, Any]]) -> frozenset[str]:
        """The atoms of the types that all of these schemas allow."""
        types = ATOMS
        for node in flat:
            types &= atoms(node["type"]) if "type" in node else types
            for value in ([node["const"]] if "const" in node else []), node.get("enum"):
                types &= {kind(item) for item in value} if value else types
        return types

    def values(self, flat: list[dict[str, Any]]) -> list[Any] | None:
        """The values that may match all of these schemas, if they list some."""
        lists = [
            [node["const"]] if "const" in node else node["enum"] for node in flat if {"const", "enum"} & node.keys()
        ]
        if not lists:
            return None
        return [v for v in min(lists, key=len) if all(matches(self._document, v, node) is not False for node in flat)]

    def _none(self, name: str, flat: list[dict[str, Any]], depth: int) -> bool:
        """Whether no value of this type matches."""
        if (values := self.values(flat)) is not None:
            return name not in map(kind, values)
        if name in ("integer", "fraction"):
            return _no_number(name, flat)
        if name == "string":
            return _crossed(flat, "minLength", "maxLength") or _no_prefix(flat)
        if name == "array":
            return self._no_array(flat, depth)
        return name == "object" and self._no_object(flat, depth)

    def _no_array(self, flat: list[dict[str, Any]], depth: int) -> bool:
        least = max((node.get("minItems", 0) for node in flat), default=0)
        return _crossed(flat, "minItems", "maxItems") or any(
            self.proven(*(item_rule(node, index) for node in flat), depth=depth + 1) for index in range(min(least, 8))
        )

    def _no_object(self, flat: list[dict[str, Any]], depth: int) -> bool:
        names = {name: None for node in flat for name in node.get("required", ())}
        most = min((node["maxProperties"] for node in flat if "maxProperties" in node), default=len(names))
        return (
            most < len(names)
            or _crossed(flat, "minProperties", "maxProperties")
            or any(
                self.proven(*(rule for node in flat for rule in property_rules(node, name)), depth=depth + 1)
                for name in names
            )
        )


def item_rule(node: dict[str, Any], index: int) -> Node:
    """What the item at an index must match."""
    prefix = node.get("prefixItems", [])
    return prefix[index] if index < len(prefix) else node.get("items", True)  # type: ignore[no-any-return]


def property_rules(node: dict[str, Any], name: str) -> Iterator[Node]:
    """What a property of this name must match, or some of it."""
    if name in node.get("properties", {}):
        yield node["properties"][name]
    elif not node.get("patternProperties"):
        yield node.get("additionalProperties", True)


def _crossed(flat: list[dict[str, Any]], low: str, high: str) -> bool:
    least = max((node[low] for node in flat if low in node), default=0)
    return any(node[high] < least for node in flat if high in node)


def _no_number(name: str, flat: list[dict[str, Any]]) -> bool:
    lows = [(node[key], key) for node in flat for key in ("minimum", "exclusiveMinimum") if key in node]
    highs = [(node[key], key) for node in flat for key in ("maximum", "exclusiveMaximum") if key in node]
    if name == "fraction" and any(
        "multipleOf" in node and node["multipleOf"] == int(node["multipleOf"]) for node in flat
    ):
        return True
    return any(
        low > high or (low == high and not (low_key == "minimum" and high_key == "maximum"))
        for (low, low_key), (high, high_key) in product(lows, highs)
    )


def _no_prefix(flat: list[dict[str, Any]]) -> bool:
    """Whether two patterns ask for beginnings that differ."""
    found = [
        re.match(r"\^((?:\w|[ /:@_\"'<>=!%,;]|\\[-.#/$])*)(\$?)(?![?*{|])", node.get("pattern", "")) for node in flat
    ]
    starts = [match[1] for match in found if match and match[1] and "|" not in match.string]
    return any(not (one.startswith(other) or other.startswith(one)) for one in starts for other in starts)
