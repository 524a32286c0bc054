"""What no code says of the built-in fields, from ``facts.json``: exact ranges, examples, and how peers differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from typing import Any

__all__ = ["PEERS", "Facts", "facts", "facts_of", "note_of", "notes"]

PEERS = ("vLLM 0.6.4", "vLLM today", "TGI", "transformers serve", "OpenAI", "llama.cpp server")
"""Whose differences are stated: TGI's chat route unless it says otherwise, transformers 5.23, vLLM 0.33."""

MESSAGES = [{"role": "user", "content": "Name three fruits."}]


@dataclass(frozen=True)
class Facts:
    """Of one field: ``range`` and ``default`` in words, where the schema cannot say them; ``peers`` by their names.

    ``example`` are fields of a request; ``messages`` may be left out.
    """

    example: Mapping[str, Any]
    peers: Mapping[str, str] = field(default_factory=dict)
    range: str = ""
    default: str = ""

    @property
    def request(self) -> dict[str, Any]:
        """The example as a whole request."""
        return {"messages": MESSAGES, **self.example}


@lru_cache(maxsize=1)
def facts() -> Mapping[str, Facts]:
    """Of every built-in field."""
    data = json.loads(_read("facts.json"))
    return {name: Facts(**about) for name, about in data.items()}


def facts_of(name: str, prop: Mapping[str, Any]) -> Facts:
    """Of any field; a plugin's has the example that its schema states, or a value of its type."""
    return facts().get(name) or Facts({name: _example(prop)})


def _example(prop: Mapping[str, Any]) -> Any:
    if prop.get("examples"):
        return prop["examples"][0]
    for part in (prop, *prop.get("anyOf", ()), *prop.get("oneOf", ())):
        if "enum" in part:
            return part["enum"][0]
        if part.get("type") in _VALUES:
            return _number(part) if part["type"] in ("number", "integer") else _VALUES[part["type"]]
    return prop.get("default")


_VALUES = {"number": 1, "integer": 1, "boolean": True, "string": "text", "array": [], "object": {}}


def _number(part: Mapping[str, Any]) -> float:
    low: float | None = part.get("minimum", part.get("exclusiveMinimum"))
    high: float | None = part.get("maximum", part.get("exclusiveMaximum"))
    if low is not None and high is not None:
        return low + (high - low) // 2 if part["type"] == "integer" else (low + high) / 2
    if low is not None:
        return max(1, low + 1) if "minimum" in part else low + 1
    return 1 if high is None else min(1, high - 1)


@lru_cache(maxsize=1)
def notes() -> str:
    """What holds where versions differ: paragraphs that begin with the bold names of their fields."""
    return _read("notes.md")


def note_of(name: str) -> str:
    """The paragraphs on one field, without its name; links are relative to the folder ``docs``."""
    found = []
    for paragraph in notes().split("\n\n"):
        head, _, rest = paragraph.removeprefix("**").partition(".**")
        if paragraph.startswith("**") and name in head.split(", "):
            found.append(rest.strip())
    return "\n\n".join(found)


def _read(name: str) -> str:
    return (files("chatplan.adapters.reference") / name).read_text("utf-8")
