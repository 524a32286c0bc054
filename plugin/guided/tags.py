"""Structural tags: the spellings, types and parts that we know."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from chatplan.guided.backend import CannotEnforce

__all__ = ["TYPES", "as_format", "goes_on", "listed", "texts"]


def as_format(tag: Any) -> Any:
    """The ``format`` of a structural tag in any of its spellings.

    Raises:
        CannotEnforce: it is none of them.
    """
    if not isinstance(tag, Mapping):
        raise CannotEnforce(f"a structural tag is an object, got {tag!r:.60}", wrong=True)
    if "structures" not in tag and tag.get("type") != "structural_tag":
        return tag
    known = ("type", "structures", "triggers") if "structures" in tag else ("type", "format")
    if set(tag) - {*known} or set(known[1:]) - set(tag):
        raise CannotEnforce(f"a structural tag has {' and '.join(known[1:])}, got {', '.join(tag)}", wrong=True)
    if "format" in tag:
        return tag["format"]
    tags = [_structure(item, f"/structures/{at}") for at, item in enumerate(listed(tag, "structures", ""))]
    return {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}


def _structure(item: Any, place: str) -> dict[str, Any]:
    if not isinstance(item, Mapping) or set(item) != {"begin", "schema", "end"}:
        raise CannotEnforce("a structure has begin, schema and end", place, wrong=True)
    schema = item["schema"]
    try:
        schema = json.loads(schema) if isinstance(schema, str) else schema
    except ValueError as error:
        raise CannotEnforce(f"is no JSON: {error}", f"{place}/schema", wrong=True) from None
    content = {"type": "json_schema", "json_schema": schema}
    return {"type": "tag", "begin": item["begin"], "content": content, "end": item["end"]}


def listed(part: Any, key: str, place: str, least: int = 0) -> list[Any]:
    """The list under ``key``."""
    found = part[key]
    if not isinstance(found, list) or len(found) < least:
        raise CannotEnforce(f"should be a list{' of at least one' * (least > 0)}", f"{place}/{key}", wrong=True)
    return found


def texts(part: Any, key: str, place: str, least: int = 0) -> list[str]:
    """The texts under ``key``; none may be empty."""
    found = listed(part, key, place, least) if key in part or least else []
    if not all(isinstance(text, str) and text for text in found):
        raise CannotEnforce("should be a list of texts, none of them empty", f"{place}/{key}", wrong=True)
    return found


def goes_on(part: Any) -> bool:
    """Whether a part ends in free text, which takes in whatever is written behind it."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "any_text":
        return True
    if kind == "triggered_tags":
        return not (part.get("at_least_one") and part.get("stop_after_first"))
    if kind in ("optional", "plus", "star"):
        return goes_on(part.get("content"))
    elements = part.get("elements") if kind in ("sequence", "or") else None
    if not isinstance(elements, list):
        return False
    return any(map(goes_on, elements[-1:] if kind == "sequence" else elements))


TYPES: Mapping[str, frozenset[str]] = {
    "const_string": frozenset({"value"}),
    "json_schema": frozenset({"json_schema"}),
    "regex": frozenset({"pattern"}),
    "any_text": frozenset({"excludes"}),
    "sequence": frozenset({"elements"}),
    "or": frozenset({"elements"}),
    "optional": frozenset({"content"}),
    "plus": frozenset({"content"}),
    "star": frozenset({"content"}),
    "tag": frozenset({"begin", "content", "end"}),
    "tags_with_separator": frozenset({"tags", "separator", "at_least_one", "stop_after_first"}),
    "triggered_tags": frozenset({"triggers", "tags", "at_least_one", "stop_after_first", "excludes"}),
}
"""The types of format that have a form in Lark, and their keys."""
