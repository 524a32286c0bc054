"""JSON schemas rewritten into the keywords that llguidance enforces."""

from __future__ import annotations

from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.forms import pointer
from chatplan.schemas.logic import CONDITIONS, Around, all_of, any_of, in_place_names, possible_types
from chatplan.schemas.numbers import BOUNDS, short_forms, short_multiples, sound_constant, sound_numbers
from chatplan.schemas.objects import COUNTED
from chatplan.schemas.parts import Parts, is_condition
from chatplan.schemas.patterns import either
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import same

__all__ = ["Lowering"]

COPIED = frozenset("type minLength maxLength pattern format minItems maxItems required $ref".split())
IN_PLACE = frozenset(("allOf", "anyOf", "$ref"))
DEPTH = 120


class Lowering:
    """Rewrites the schemas of one document; ``size`` bounds how many schemas come out."""

    def __init__(self, document: Document, size: int) -> None:
        self._document = document
        self._parts = Parts(document)
        self._left = size
        self._depth = 0

    def lower(self, node: Node, place: str, around: Around | None = None) -> Node:
        """The same schema in the keywords that llguidance enforces.

        Raises:
            CannotEnforce: there is no such schema, or none of a bearable size.
        """
        if isinstance(node, bool):
            return node
        place = self._document.place(node, place)
        self._left -= 1
        if self._left < 0:
            raise CannotEnforce("the schema would become too large", place)
        self._depth += 1
        if self._depth > DEPTH:
            raise CannotEnforce("the schema refers to itself in too complicated a way", place)
        result = self._lowered(node, place, around)
        self._depth -= 1
        return result if isinstance(result, bool) else self._document.put(result, place)

    def _lowered(self, node: dict[str, Any], place: str, around: Around | None) -> Node:
        here = self._known(node, around or Around())
        base = {key: node[key] for key in node if key in COPIED}
        self._children(node, base, place)
        self._constants(node, base, place)
        base.update({name: node[marked] for marked, name in COUNTED.items() if marked in node})
        parts = [*self._parts.of(node, place, here), *self._numbers(node, base, place, here)]
        lowered = [self.lower(part, place, here) for part in parts]
        return _assembled(node, base, self._applied(node, place, here), lowered)

    def _known(self, node: dict[str, Any], around: Around) -> Around:
        names = dict.fromkeys((*around.names, *in_place_names(self._document, node)))
        types = around.types & possible_types(self._document, node)
        plain = {keyword: rule for keyword, rule in node.items() if keyword not in CONDITIONS and keyword != "not"}
        beside = (*around.beside, plain) if plain else around.beside
        return Around(types, tuple(names), around.required | set(node.get("required", ())), beside)

    def _constants(self, node: dict[str, Any], base: dict[str, Any], place: str) -> None:
        for keyword in ("const", "enum"):
            if keyword in node:
                base[keyword] = sound_constant(node[keyword], pointer(place, keyword))

    def _numbers(self, node: dict[str, Any], base: dict[str, Any], place: str, here: Around) -> list[Node]:
        """Put the rules for numbers into ``base``, or return them with the numbers that are lost with them."""
        rules = sound_numbers(node, place) if here.types & {"integer", "fraction"} else {}
        bounds = {key: rules.pop(key) for key in BOUNDS if key in rules}
        ways: list[list[Node]] = []
        if "fraction" in here.types and "#exact" not in node:
            ways.append([{"enum": short_forms(bounds)}] if short_forms(bounds) else [])
            ways.append([{"multipleOf": value, "#exact": True} for value in short_multiples(rules)])
        parts = []
        for own, more in zip((bounds, rules), ways or [[], []], strict=True):
            if more:
                parts.append(any_of([{**own, "#exact": True}, *more]))
            else:
                base.update(own)
        return parts

    def _children(self, node: dict[str, Any], base: dict[str, Any], place: str) -> None:
        for keyword in ("properties", "patternProperties"):
            if keyword in node:
                inner = {k: self.lower(v, pointer(place, keyword, k)) for k, v in node[keyword].items()}
                base[keyword] = inner
        if "patternProperties" in base:
            base["patternProperties"] = _joined(base["patternProperties"], "additionalProperties" in node)
        for keyword in ("additionalProperties", "items"):
            if keyword in node:
                base[keyword] = self.lower(node[keyword], pointer(place, keyword))
        if "prefixItems" in node:
            prefix = enumerate(node["prefixItems"])
            base["prefixItems"] = [self.lower(item, pointer(place, "prefixItems", i)) for i, item in prefix]

    def _applied(self, node: dict[str, Any], place: str, here: Around) -> dict[str, Any]:
        """The schemas for the same value that stay as they are."""
        applied: dict[str, Any] = {}
        for keyword in ("allOf", "anyOf"):
            items = [item for item in node.get(keyword, ()) if keyword == "anyOf" or not is_condition(item)]
            if items or keyword == "anyOf" in node:
                applied[keyword] = [self.lower(item, place, here) for item in items]
        return applied


def _assembled(node: dict[str, Any], base: dict[str, Any], applied: dict[str, Any], parts: list[Node]) -> Node:
    """One schema: keywords that belong together side by side, since llguidance reads those between others apart."""
    needed = [*applied.get("allOf", ()), *parts, any_of(applied.get("anyOf", [True]))]
    if _impossible(base) or False in needed:
        return False
    side_by_side = {name: value for name, value in base.items() if name != "$ref"}
    first = "properties" if "properties" in base else next((key for key in node if key not in IN_PLACE), "")
    out: dict[str, Any] = {}
    for key in node:
        if key == first:
            out.update(side_by_side)
        elif key == "$ref":
            out["$ref"] = base["$ref"]
        elif key in applied:
            out.update(_simple(key, applied[key]))
    if len(parts) == 1 and not out.keys() & IN_PLACE and isinstance(parts[0], dict) and parts[0].keys() == {"anyOf"}:
        return {**out, **parts[0]}
    return all_of([out, *parts])


def _joined(rules: dict[str, Node], closed: bool) -> dict[str, Node]:
    """Patterns with equal rules as one, since llguidance wants no two that match the same name."""
    joined: list[tuple[list[str], Node]] = []
    for pattern, rule in rules.items():
        equal = next((patterns for patterns, other in joined if same(other, rule)), None)
        if equal is not None:
            equal.append(pattern)
        elif closed or rule is not True:
            joined.append(([pattern], rule))
    return {patterns[0] if len(patterns) == 1 else either(patterns): rule for patterns, rule in joined}


def _simple(keyword: str, items: list[Node]) -> dict[str, Any]:
    joined = all_of(items) if keyword == "allOf" else any_of(items)
    return {} if joined is True else {keyword: [item for item in items if item is not (keyword == "allOf")]}


def _impossible(base: dict[str, Any]) -> bool:
    """Whether something that is required is impossible."""
    if base.get("type") in ("object", ["object"]):
        return any(base.get("properties", {}).get(name) is False for name in base.get("required", ()))
    return base.get("type") in ("array", ["array"]) and False in base.get("prefixItems", [])[: base.get("minItems", 0)]
