"""Types and ranges of a JSON schema in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["default_words", "range_words", "type_words"]

_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "at least {} of them",
    "maxItems": "at most {} of them",
    "minLength": "at least {} characters",
    "maxLength": "at most {} characters",
    "pattern": "matches {}",
}


def type_words(prop: Mapping[str, Any]) -> str:
    """The type of a property; ``null``, which stands for an absent value everywhere, is left out."""
    return " or ".join(dict.fromkeys(_words(prop))) or "anything"


def _words(prop: Mapping[str, Any]) -> list[str]:
    for key in ("anyOf", "oneOf", "allOf"):
        if key in prop:
            return [word for part in prop[key] for word in _words(part)]
    if "enum" in prop or "const" in prop:
        return [json.dumps(value) for value in prop.get("enum", [prop.get("const")])]
    if "$ref" in prop:
        return ["object"]
    kind = prop.get("type")
    if kind == "array":
        return [f"list of {_plural(type_words(prop.get('items', {})))}"]
    return [] if kind in (None, "null") else [str(kind)]


def _plural(words: str) -> str:
    return words if words in ("anything", "null") else " or ".join(f"{word}s" for word in words.split(" or "))


def range_words(prop: Mapping[str, Any]) -> str:
    """The bounds of a property, as its schema states them; "" if there are none."""
    parts = [part for key in ("anyOf", "oneOf") for part in prop.get(key, ())]
    said = [words.format(prop[key]) for key, words in _BOUNDS.items() if key in prop]
    return ", ".join([*said, *filter(None, map(range_words, parts))])


def default_words(prop: Mapping[str, Any]) -> str:
    """The default of a property as JSON."""
    return json.dumps(prop.get("default"), ensure_ascii=False)
