"""The opposites of JSON schemas, where JSON Schema without "not" can say them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING, Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.forms import pointer
from chatplan.schemas.logic import all_of, any_of, other_values
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import ATOMS, atoms, found, kind, matches, type_names

if TYPE_CHECKING:
    from chatplan.schemas.given import Given

__all__ = ["opposite"]

DEPTH = 12


def opposite(
    document: Document, node: Node, types: frozenset[str], place: str, depth: int = 0, given: Given | None = None
) -> Node:
    """A schema that matches, of the values of these types, just those that ``node`` does not match.

    ``given`` is what is known of the values anyway; the result holds only together with that.

    Raises:
        CannotEnforce: JSON Schema without "not" cannot say it, or not briefly.
    """
    if isinstance(node, bool):
        return not node
    document.spend(place)
    if depth > DEPTH:
        raise CannotEnforce("the opposite of a schema that refers to itself cannot be enforced", place)
    values = given.values() if given else None
    if values is not None and None not in (verdicts := [matches(document, value, node) for value in values]):
        others = [value for value, verdict in zip(values, verdicts, strict=True) if not verdict]
        return {"enum": others} if others else False
    return any_of(
        [way for keyword in node for way in _Opposite(document, node, types, place, depth, given).ways(keyword)]
    )


class _Opposite:
    """The ways not to match a schema, keyword by keyword."""

    def __init__(
        self,
        document: Document,
        node: dict[str, Any],
        types: frozenset[str],
        place: str,
        depth: int,
        given: Given | None,
    ) -> None:
        self._document, self._node, self._types, self._place, self._depth = document, node, types, place, depth
        self._given = given

    def ways(self, keyword: str) -> Iterator[Node]:
        rule = self._node[keyword]
        if keyword in _TURNED:
            other, step, names = _TURNED[keyword]
            if other == "minProperties" or rule + step >= 0 or names == "number":
                yield from self._typed(names, {other: rule + step})
        elif keyword in ("then", "else", "minContains", "maxContains"):
            return  # they say nothing without "if" and "contains"
        elif keyword in _METHODS:
            yield from getattr(self, _METHODS[keyword])(rule)
        else:
            raise CannotEnforce(f'the opposite of "{keyword}" cannot be enforced', self._where(keyword))

    def _where(self, keyword: str) -> str:
        place = self._document.place(self._node, "")
        return pointer(place, keyword) if place else self._place

    def _typed(self, name: str, rules: dict[str, Any]) -> Iterator[Node]:
        if self._types & atoms(name):
            yield {"type": name, **rules}

    def _not(self, node: Node, given: Given | None = None) -> Node:
        types = given.types() if given else ATOMS
        return opposite(self._document, node, types, self._place, self._depth + 1, given)

    def _not_here(self, node: Node) -> Node:
        """The opposite of a schema for the same value."""
        return opposite(self._document, node, self._types, self._place, self._depth + 1, self._given)

    def _all_fail(self, keyword: str) -> bool:
        return self._node[keyword] is False or (self._given is not None and self._given.all_fail(keyword, self._node))

    def _type(self, rule: Any) -> Iterator[Node]:
        rest = self._types - atoms(rule)
        if "fraction" in rest and "integer" in self._types - rest:
            raise CannotEnforce("numbers that are no integers cannot be enforced", self._where("type"))
        if rest:
            yield {"type": type_names(rest)}

    def _const(self, rule: Any) -> Iterator[Node]:
        yield from self._enum([rule])

    def _enum(self, rule: list[Any]) -> Iterator[Node]:
        yield from other_values(rule, self._types)
        for name in sorted(self._types & {kind(value) for value in rule} & {"array", "object"}):
            yield self._containers(name, [value for value in rule if kind(value) == name])

    def _containers(self, name: str, values: list[Any]) -> Node:
        if name == "object":
            if any(values):
                raise CannotEnforce("the opposite of a certain object cannot be enforced", self._place)
            return {"type": "object", "minProperties": 1}
        forms = [
            {"minItems": len(value), "maxItems": len(value), "prefixItems": [{"const": item} for item in value]}
            for value in values
        ]
        return all_of([{"type": "array"}, *(self._not(form) for form in forms)])

    def _required(self, rule: list[str]) -> Iterator[Node]:
        for name in dict.fromkeys(rule):
            if not (self._given and self._given.requires(name)):
                yield from self._typed("object", {"properties": {name: False}})

    def _properties(self, rule: dict[str, Node]) -> Iterator[Node]:
        for name, item in rule.items():
            yield from self._property(name, item)

    def _property(self, name: str, rule: Node) -> Iterator[Node]:
        """That the property is there and breaks the rule."""
        if "object" not in self._types or (self._given and self._given.property_holds(name, rule)):
            return
        if (other := self._not(rule, self._given and self._given.property(name))) is not False:
            yield {"type": "object", "required": [name], "properties": {name: other}}

    def _patterns(self, rule: dict[str, Node]) -> Iterator[Node]:
        for pattern, item in rule.items():
            if item not in (True, {}):
                for name in self._names("patternProperties"):
                    if found(pattern, name) is not False:
                        yield from self._matching(pattern, name, item)

    def _matching(self, pattern: str, name: str, rule: Node) -> Iterator[Node]:
        if found(pattern, name) is None:
            raise CannotEnforce(f"whether {name} matches {pattern} is not clear", self._where("patternProperties"))
        yield from self._property(name, rule)

    def _names(self, keyword: str) -> list[str]:
        """All names that properties can have."""
        if "object" not in self._types:
            return []
        names = self._given.names() if self._given else None
        if names is None:
            raise CannotEnforce("that some further property exists cannot be enforced", self._where(keyword))
        return names

    def _additional(self, rule: Node) -> Iterator[Node]:
        if "object" not in self._types or rule in (True, {}):
            return
        own, patterns = self._node.get("properties", {}), self._node.get("patternProperties", {})
        if self._given and self._given.names() is not None:
            for name in self._names("additionalProperties"):
                verdicts = [found(pattern, name) for pattern in patterns]
                if name not in own and True not in verdicts:
                    if None in verdicts:
                        raise CannotEnforce(f"whether {name} matches is not clear", self._where("patternProperties"))
                    yield from self._property(name, rule)
        elif len(own) > 4 or patterns or not self._all_fail("additionalProperties"):
            raise CannotEnforce(
                "that some further property exists cannot be enforced", self._where("additionalProperties")
            )
        else:
            for chosen in (some for size in range(len(own) + 1) for some in combinations(own, size)):
                absent = {name: False for name in own if name not in chosen}
                yield {"type": "object", "required": [*chosen], "properties": absent, "minProperties": len(chosen) + 1}

    def _prefix(self, rule: list[Node]) -> Iterator[Node]:
        for index, item in enumerate(rule):
            if (other := self._not(item)) is not False and "array" in self._types:
                yield {"type": "array", "minItems": index + 1, "prefixItems": [*[True] * index, other]}

    def _items(self, rule: Node) -> Iterator[Node]:
        if "array" not in self._types or rule in (True, {}):
            return
        if self._given and self._given.items_hold(rule, self._node):
            return
        first, most = len(self._node.get("prefixItems", ())), self._node.get("maxItems", 100)
        if self._all_fail("items"):
            yield {"type": "array", "minItems": first + 1}
        elif most > 8:
            raise CannotEnforce("that some item is different cannot be enforced", self._where("items"))
        else:
            for index in range(first, most):
                yield {"type": "array", "minItems": index + 1, "prefixItems": [*[True] * index, self._not(rule)]}

    def _all(self, rule: list[Node]) -> Iterator[Node]:
        yield from (self._not_here(item) for item in rule)

    def _any(self, rule: list[Node]) -> Iterator[Node]:
        yield all_of([self._not_here(item) for item in rule])

    def _same(self, rule: Node) -> Iterator[Node]:
        yield rule

    def _reference(self, rule: str) -> Iterator[Node]:
        yield self._not_here(self._document.target(rule))

    def _one(self, rule: list[Node]) -> Iterator[Node]:
        yield all_of([self._not_here(item) for item in rule])
        for index, item in enumerate(rule):
            yield from ({"allOf": [item, other]} for other in rule[:index])

    def _if(self, rule: Node) -> Iterator[Node]:
        then, otherwise = self._node.get("then", True), self._node.get("else", True)
        yield all_of([rule, self._not_here(then)])
        yield all_of([self._not_here(otherwise), self._not_here(rule)] if otherwise is not True else [False])

    def _contains(self, rule: Node) -> Iterator[Node]:
        if self._node.get("minContains", 1) != 1 or "maxContains" in self._node:
            raise CannotEnforce("counting what an array contains cannot be enforced", self._where("contains"))
        yield from self._typed("array", {"items": {"not": rule}})

    def _dependent(self, rule: dict[str, list[str]]) -> Iterator[Node]:
        for name, others in rule.items():
            for other in others:
                yield from self._typed("object", {"required": [name], "properties": {other: False}})


_TURNED = {
    "minimum": ("exclusiveMaximum", 0, "number"),
    "maximum": ("exclusiveMinimum", 0, "number"),
    "exclusiveMinimum": ("maximum", 0, "number"),
    "exclusiveMaximum": ("minimum", 0, "number"),
    "minLength": ("maxLength", -1, "string"),
    "maxLength": ("minLength", 1, "string"),
    "minItems": ("maxItems", -1, "array"),
    "maxItems": ("minItems", 1, "array"),
    "minProperties": ("maxProperties", -1, "object"),
    "maxProperties": ("minProperties", 1, "object"),
}
_METHODS = {
    "type": "_type",
    "const": "_const",
    "enum": "_enum",
    "required": "_required",
    "properties": "_properties",
    "patternProperties": "_patterns",
    "additionalProperties": "_additional",
    "prefixItems": "_prefix",
    "items": "_items",
    "allOf": "_all",
    "anyOf": "_any",
    "oneOf": "_one",
    "not": "_same",
    "$ref": "_reference",
    "if": "_if",
    "dependentRequired": "_dependent",
    "contains": "_contains",
}
