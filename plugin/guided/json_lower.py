"""JSON schemas rewritten into the keywords that llguidance enforces."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.json_arrays import contains, unique
from chatplan.guided.json_empty import Emptiness
from chatplan.guided.json_forms import pointer
from chatplan.guided.json_given import Given
from chatplan.guided.json_logic import Around, all_of, any_of, in_place, in_place_names, possible_types
from chatplan.guided.json_numbers import BOUNDS, check_bounds, check_multiples, short_forms, short_multiples, sound_constant, sound_numbers
from chatplan.guided.json_objects import COUNTED, counted, named
from chatplan.guided.json_opposite import opposite
from chatplan.guided.json_reader import Document, Node
from chatplan.guided.json_unevaluated import unevaluated

__all__ = ["Lowering"]

COPIED = frozenset("type minLength maxLength pattern format minItems maxItems required $ref".split())
CONDITIONS = frozenset("if then else dependentRequired dependentSchemas oneOf".split())
IN_PLACE = frozenset(("allOf", "anyOf", "$ref"))
WAYS = 128
DEPTH = 120


class Lowering:
    """Rewrites the schemas of one document; ``size`` bounds how many schemas come out."""

    def __init__(self, document: Document, size: int) -> None:
        self._document = document
        self._empty = Emptiness(document)
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
        return result

    def _lowered(self, node: dict[str, Any], place: str, around: Around | None) -> Node:
        if around is None:
            self._check_numbers(node, place)
        here = self._known(node, around or Around())
        base = {key: node[key] for key in node if key in COPIED}
        self._children(node, base, place)
        self._constants(node, base, place)
        base.update({name: node[marked] for marked, name in COUNTED.items() if marked in node})
        parts = [part for part in self._parts(node, place, here) if part is not True]
        parts += self._numbers(node, base, place, here)
        lowered = [self.lower(part, place, here) for part in self._merged(node, parts, place)]
        return _assembled(node, base, self._applied(node, place, here), lowered)

    def _known(self, node: dict[str, Any], around: Around) -> Around:
        names = dict.fromkeys((*around.names, *in_place_names(self._document, node)))
        types = around.types & possible_types(self._document, node)
        return Around(types, tuple(names), around.required | set(node.get("required", ())))

    def _check_numbers(self, node: dict[str, Any], place: str) -> None:
        """Bounds that come together in llguidance, from all schemas for one value."""
        rules = [{key: part[key] for key in (*BOUNDS, "multipleOf") if key in part} for part in in_place(self._document, node)]
        if "fraction" in possible_types(self._document, node):
            check_bounds(rules, place)
        check_multiples([rule["multipleOf"] for rule in rules if "multipleOf" in rule], place)

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
            items = [item for item in node.get(keyword, ()) if keyword == "anyOf" or not _conditional(item)]
            if items or keyword == "anyOf" in node:
                applied[keyword] = [self.lower(item, place, here) for item in items]
        return applied

    def _parts(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        """Schemas that together say what the keywords say that llguidance lacks."""
        for keyword in node:
            if keyword in _REWRITTEN:
                yield from getattr(self, _REWRITTEN[keyword])(node, pointer(place, keyword), here)
        for item in node.get("allOf", ()):
            if _conditional(item):
                yield from self._parts(item, self._document.place(item, place), here)

    def _counts(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        if "maxProperties" not in node or place.endswith("maxProperties"):
            yield from counted(node, here, place)

    def _names(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        yield from named(self._document, node["propertyNames"], place)

    def _not(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        yield self._opposite(node, "not", place, here)

    def _opposite(self, node: dict[str, Any], keyword: str, place: str, here: Around) -> Node:
        rest = {key: value for key, value in node.items() if key != keyword and key not in CONDITIONS}
        return opposite(self._document, node[keyword], here.types, place, given=Given(self._empty, [rest]))

    def _if(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        then, otherwise = node.get("then", True), node.get("else", True)
        if then is True and otherwise is True:
            return
        ways = [all_of([node["if"], then])] if then is not False else []
        if otherwise is not False:
            ways.append(all_of([self._opposite(node, "if", place, here), otherwise]))
        yield any_of(ways)

    def _one(self, node: dict[str, Any], place: str, here: Around) -> Iterator[Node]:
        rest = {key: value for key, value in node.items() if key != "oneOf"}
        branches = node["oneOf"]
        ways = []
        for index, branch in enumerate(branches):
            others = [other for i, other in enumerate(branches) if i != index]
            overlapping = [other for other in others if not self._empty.proven(rest, branch, other)]
            denials = [self._denied(other, [rest, branch], pointer(place, index), here) for other in overlapping]
            ways.append(all_of([branch, *denials]))
        yield any_of(ways)

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

    def _merged(self, node: dict[str, Any], parts: list[Node], place: str) -> list[Node]:
        """The parts, several choices made one where they exclude each other's ways: llguidance multiplies them out."""
        groups = [part["anyOf"] for part in parts if isinstance(part, dict) and part.keys() == {"anyOf"}]
        if len(groups) < 2 or prod(map(len, groups)) <= 8:
            return parts
        rest = [part for part in parts if not (isinstance(part, dict) and part.keys() == {"anyOf"})]
        base = {key: value for key, value in node.items() if key not in CONDITIONS}
        ways: list[list[Node]] = [[]]
        for group in groups:
            ways = [[*way, item] for way in ways for item in group if not self._empty.proven(base, *way, item)]
            if len(ways) > WAYS:
                raise CannotEnforce(f"its conditions have more than {WAYS} ways to hold together", place)
        return [*rest, any_of([all_of(way) for way in ways])]


def _conditional(node: Node) -> bool:
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


def _assembled(node: dict[str, Any], base: dict[str, Any], applied: dict[str, Any], parts: list[Node]) -> Node:
    """One schema: keywords that belong together side by side, since llguidance reads those between others apart."""
    if (
        _impossible(base)
        or any_of(applied.get("anyOf", [True])) is False
        or False in (*applied.get("allOf", ()), *parts)
    ):
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
    if parts and not out.keys() & IN_PLACE:
        joined = all_of(parts)
        return (
            joined
            if not out
            else {**out, **joined}
            if isinstance(joined, dict) and _fits(joined, out)
            else all_of([out, *parts])
        )
    return all_of([out, *parts])


def _joined(rules: dict[str, Node], closed: bool) -> dict[str, Node]:
    """Patterns with equal rules as one, since llguidance wants no two that match the same name."""
    joined: list[tuple[list[str], Node]] = []
    for pattern, rule in rules.items():
        same = next((patterns for patterns, other in joined if other == rule and type(other) is type(rule)), None)
        if same is not None:
            same.append(pattern)
        elif closed or rule is not True:
            joined.append(([pattern], rule))
    single = {patterns[0] if len(patterns) == 1 else "|".join(f"(?:{p})" for p in patterns): r for patterns, r in joined}
    return single


def _fits(joined: dict[str, Any], out: dict[str, Any]) -> bool:
    return joined.keys() in ({"allOf"}, {"anyOf"}) and not out.keys() & joined.keys()


def _simple(keyword: str, items: list[Node]) -> dict[str, Any]:
    joined = all_of(items) if keyword == "allOf" else any_of(items)
    return {} if joined is True else {keyword: [item for item in items if item is not (keyword == "allOf")]}


def _impossible(base: dict[str, Any]) -> bool:
    """Whether something that is required is impossible."""
    if "type" in base and base["type"] not in ("object", "array", ["object"], ["array"]):
        return False
    if base.get("type") in ("object", ["object"]):
        names = (base.get("properties", {}).get(name) is False for name in base.get("required", ()))
        return any(names)
    return base.get("type") in ("array", ["array"]) and False in base.get("prefixItems", [])[: base.get("minItems", 0)]
