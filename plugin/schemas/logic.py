"""JSON schemas put together, and what is easily seen of what they match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from chatplan.schemas.patterns import other_than
from chatplan.schemas.reader import Document, Node
from chatplan.schemas.values import ATOMS, atoms, kind, type_names

__all__ = ["CONDITIONS", "Around", "all_of", "any_of", "in_place", "in_place_names", "other_values", "possible_types"]


CONDITIONS = frozenset("if then else dependentRequired dependentSchemas oneOf".split())


class Around(NamedTuple):
    """What is known of a value from the schemas that apply to it.

    Attributes:
        types: the atoms of the types that it may have.
        names: names of its properties that some schema treats by themselves.
        required: names of properties that it has.
        beside: schemas that it matches in any case, without their conditions.
    """

    types: frozenset[str] = ATOMS
    names: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    beside: tuple[dict[str, Any], ...] = ()


def all_of(nodes: Sequence[Node]) -> Node:
    """A schema that matches what all of these match."""
    useful = [node for node in nodes if node is not True and node != {}]
    if False in useful:
        return False
    return {"allOf": useful} if len(useful) > 1 else useful[0] if useful else True


def any_of(nodes: Sequence[Node]) -> Node:
    """A schema that matches what one of these matches."""
    useful = [node for node in nodes if node is not False]
    if any(node is True or node == {} for node in useful):
        return True
    return {"anyOf": useful} if len(useful) > 1 else useful[0] if useful else False


def possible_types(document: Document, node: Node, inside: frozenset[str] = frozenset()) -> frozenset[str]:
    """The atoms of the values that a schema may match: all of these, and perhaps more."""
    if isinstance(node, bool):
        return ATOMS if node else frozenset()
    document.spend(document.place(node, ""))
    found = atoms(node["type"]) if "type" in node else ATOMS
    if "enum" in node or "const" in node:
        found &= {kind(value) for value in (node["enum"] if "enum" in node else [node["const"]])}
    if "$ref" in node and node["$ref"] not in inside:
        found &= possible_types(document, document.target(node["$ref"]), inside | {node["$ref"]})
    for item in node.get("allOf", ()):
        found &= possible_types(document, item, inside)
    for keyword in ("anyOf", "oneOf"):
        if keyword in node and found:
            found &= frozenset().union(*(possible_types(document, item, inside) for item in node[keyword]))
    return found


def in_place(document: Document, node: Node) -> Iterator[dict[str, Any]]:
    """The schemas that may apply to the same value as ``node``: itself, and those that it combines or refers to."""
    seen: set[int] = set()
    todo = [node]
    while todo:
        part = todo.pop()
        if isinstance(part, dict) and id(part) not in seen:
            seen.add(id(part))
            yield part
            todo += [item for keyword in ("oneOf", "anyOf", "allOf") for item in part.get(keyword, ())]
            todo += [part[keyword] for keyword in ("not", "if", "then", "else") if keyword in part]
            todo += part.get("dependentSchemas", {}).values()
            todo += [document.target(part["$ref"])] if "$ref" in part else []


def in_place_names(document: Document, node: Node) -> dict[str, None]:
    """The property names that these schemas treat by themselves."""
    names: dict[str, None] = {}
    for part in in_place(document, node):
        names.update(dict.fromkeys((*part.get("properties", ()), *part.get("required", ()))))
        for name, others in part.get("dependentRequired", {}).items():
            names.update(dict.fromkeys((name, *others)))
        names.update(dict.fromkeys(part.get("dependentSchemas", ())))
    return names


def other_values(values: list[Any], types: frozenset[str]) -> Iterator[Node]:
    """Other values than these, arrays and objects aside where there is one among them."""
    kinds = {kind(value) for value in values}
    numeric = {"integer", "fraction"} if kinds & {"integer", "fraction"} else set()
    if rest := types - kinds - numeric:
        yield {"type": type_names(rest)}
    if types & kinds & {"boolean"}:
        yield from ({"const": value} for value in (True, False) if not any(value is item for item in values))
    if types & kinds & {"string"}:
        yield {"type": "string", "pattern": other_than(value for value in values if isinstance(value, str))}
    if types & numeric:
        base = {"type": "number" if "fraction" in types else "integer"}
        known = sorted({value for value in values if kind(value) in numeric})
        yield {**base, "exclusiveMaximum": known[0]}
        yield from ({**base, "exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in pairwise(known))
        yield {**base, "exclusiveMinimum": known[-1]}
