"""JSON values, and whether a schema matches one."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatplan.schemas.reader import Document, Node

__all__ = ["ATOMS", "atoms", "distinct", "found", "kind", "matches", "number", "same", "type_names"]

ATOMS = frozenset(("null", "boolean", "integer", "fraction", "string", "array", "object"))
"""The types, of which a "number" is an "integer" or a "fraction": none is part of another."""


def atoms(types: str | list[str]) -> frozenset[str]:
    """The atoms of the value of the keyword "type"."""
    names = {types} if isinstance(types, str) else set(types)
    return frozenset(names - {"number"} | ({"integer", "fraction"} if "number" in names else set()))


def type_names(some: frozenset[str]) -> list[str]:
    """Atoms as the value of the keyword "type"; a fraction alone has no name, and becomes a number."""
    number = {"number"} if "fraction" in some else set()
    return sorted(some - {"integer", "fraction"} | number if number else some)


def kind(value: Any) -> str:
    """The atom that a value is of. 1.0 is an integer (JSON Schema 2020-12 core, 4.2.3)."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == int(value) else "fraction"
    names = {type(None): "null", str: "string", list: "array", dict: "object"}
    return names[type(value)]


def number(value: int | float) -> Fraction:
    """The exact value of a number as it is written."""
    return Fraction(str(value)) if isinstance(value, float) else Fraction(value)


def same(one: Any, other: Any) -> bool:
    """Equality of JSON values: 1 is 1.0, but not true."""
    if kind(one) != kind(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    return bool(one == other)


def distinct(nodes: Sequence[Node]) -> bool:
    """Whether each schema is for constants of its own, by a quick look that may say no wrongly."""
    constants = [node["const"] for node in nodes if isinstance(node, dict) and "const" in node]
    return len({value for value in constants if isinstance(value, str)}) == len(nodes)


def matches(document: Document, value: Any, node: Node, depth: int = 0) -> bool | None:
    """Whether a schema matches a value; ``None`` if that is not clear."""
    if isinstance(node, bool) or depth > 20:
        return node if isinstance(node, bool) else None
    document.spend("")
    verdicts = [_matches(document, value, node, keyword, depth + 1) for keyword in node]
    return False if False in verdicts else None if None in verdicts else True


def _matches(document: Document, value: Any, node: dict[str, Any], keyword: str, depth: int) -> bool | None:
    rule = node[keyword]
    if keyword == "type":
        return kind(value) in atoms(rule)
    if keyword in ("const", "enum"):
        return any(same(value, item) for item in ([rule] if keyword == "const" else rule))
    if keyword == "$ref":
        return matches(document, value, document.target(rule), depth)
    if keyword in ("allOf", "anyOf", "oneOf", "not"):
        return _logic(document, value, rule, keyword, depth)
    if keyword in _APPLIES:
        return kind(value) not in _APPLIES[keyword] or _about(document, value, node, keyword, depth)
    return None


_APPLIES = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), ("integer", "fraction")),
    "multipleOf": ("integer", "fraction"),
    **dict.fromkeys(("minLength", "maxLength", "pattern", "format"), ("string",)),
    **dict.fromkeys(("minItems", "maxItems", "prefixItems", "items", "uniqueItems", "contains"), ("array",)),
    **dict.fromkeys(("minProperties", "maxProperties", "required", "properties"), ("object",)),
    **dict.fromkeys(("additionalProperties", "patternProperties", "propertyNames"), ("object",)),
}


def _logic(document: Document, value: Any, rule: Any, keyword: str, depth: int) -> bool | None:
    verdicts = [matches(document, value, item, depth) for item in (rule if isinstance(rule, list) else [rule])]
    if keyword == "not":
        return None if verdicts[0] is None else not verdicts[0]
    if keyword == "oneOf":
        return None if None in verdicts else verdicts.count(True) == 1
    decisive = keyword == "anyOf"
    return decisive if decisive in verdicts else None if None in verdicts else not decisive


def _about(document: Document, value: Any, node: dict[str, Any], keyword: str, depth: int) -> bool | None:
    rule = node[keyword]
    if keyword in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"):
        low, high = (value, rule) if keyword.lower().endswith("maximum") else (rule, value)
        return bool(low < high if keyword.startswith("exclusive") else low <= high)
    if keyword == "multipleOf":
        return (number(value) / number(rule)).denominator == 1
    if keyword.startswith(("min", "max")):
        return bool(len(value) >= rule if keyword.startswith("min") else len(value) <= rule)
    if keyword == "pattern":
        return found(rule, value)
    if keyword == "required":
        return all(name in value for name in rule)
    return _inside(document, value, node, keyword, depth)


def _inside(document: Document, value: Any, node: dict[str, Any], keyword: str, depth: int) -> bool | None:
    rule = node[keyword]
    if keyword == "properties":
        pairs = [(value[name], item) for name, item in rule.items() if name in value]
    elif keyword == "prefixItems":
        pairs = list(zip(value, rule, strict=False))
    elif keyword == "items":
        pairs = [(item, rule) for item in value[len(node.get("prefixItems", ())) :]]
    elif keyword == "additionalProperties" and "patternProperties" not in node:
        pairs = [(item, rule) for name, item in value.items() if name not in node.get("properties", ())]
    else:
        return None
    verdicts = [matches(document, item, schema, depth) for item, schema in pairs]
    return False if False in verdicts else None if None in verdicts else True


def found(pattern: str, text: str) -> bool | None:
    """Whether a pattern of Rust's dialect is found; ``None`` where Python's reads it otherwise."""
    python = re.sub(r"\\x\{([0-9A-F]+)\}", lambda found: rf"\U{int(found[1], 16):08x}", pattern)
    if re.search(r"\[[^\]]*\[|\\[pP]|\(\?i\)|\$.", python):
        return None
    python = python[:-1] + r"\Z" if python.endswith("$") and not python.endswith(r"\$") else python
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return re.search(python, text, re.ASCII) is not None
        except (re.error, RecursionError, OverflowError):
            return None
