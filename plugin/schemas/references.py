"""Where the references of a JSON schema lead, within the same document."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.forms import dialect_of, pointer

__all__ = ["References", "subschemas"]

_ONE: tuple[str, ...] = (
    "additionalItems",
    "additionalProperties",
    "contains",
    "contentSchema",
    "else",
    "if",
    "items",
    "not",
)
_ONE += ("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
_MAPS = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def subschemas(schema: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The schemas directly inside a schema, each with the path to it."""
    for keyword, value in schema.items():
        if keyword in _ONE and isinstance(value, dict | bool):
            yield (keyword,), value
        elif keyword in _LISTS and isinstance(value, list):
            yield from (((keyword, str(index)), item) for index, item in enumerate(value))
        elif keyword in _MAPS and isinstance(value, dict):
            yield from (((keyword, name), item) for name, item in value.items())


class References:
    """The identifiers and anchors of a document: RFC 6901 pointers, ``$id``, ``$anchor``, ``$dynamicAnchor``.

    ``dialect`` is the draft of the document, as :func:`dialect_of` says it, or 0.
    """

    def __init__(self, document: Any) -> None:
        self.document = document
        self.dialect: int = dialect_of(document, 0) if isinstance(document, dict) else 0
        self._bases: dict[str, tuple[str, int]] = {"": ("", self.dialect)}
        self._resources: dict[str, str] = {"": ""}
        self._anchors: dict[tuple[str, str], str] = {}
        self._dynamic: dict[str, list[str]] = {}
        self._scan(document, "", "", self.dialect)

    def _scan(self, schema: Any, place: str, base: str, dialect: int) -> None:
        if not isinstance(schema, dict):
            return
        if not (0 < dialect <= 7 and "$ref" in schema):
            dialect = dialect_of(schema, dialect)
            base = self._identify(schema, place, base, dialect)
        for path, item in subschemas(schema):
            self._scan(item, pointer(place, *path), base, dialect)

    def _identify(self, schema: dict[str, Any], place: str, base: str, dialect: int) -> str:
        name = schema.get("id" if dialect == 4 else "$id")
        if isinstance(name, str) and not name.startswith("#"):
            base = urldefrag(urljoin(base, name)).url
            self._bases[place] = (base, dialect)
            self._resources.setdefault(base, place)
        elif isinstance(name, str):
            self._anchors[base, name[1:]] = place
        for keyword in ("$anchor", "$dynamicAnchor"):
            if isinstance(schema.get(keyword), str):
                self._anchors[base, schema[keyword]] = place
        if "$dynamicAnchor" in schema:
            self._dynamic.setdefault(str(schema["$dynamicAnchor"]), []).append(place)
        if schema.get("$recursiveAnchor") is True:
            self._dynamic.setdefault("", []).append(place)
        return base

    def scope(self, place: str) -> tuple[str, int]:
        """The base URI and the dialect that hold at a place."""
        while place not in self._bases:
            place = place.rpartition("/")[0]
        return self._bases[place]

    def target(self, keyword: str, reference: str, inside: str, place: str) -> str:
        """The place that a reference leads to; ``inside`` is the schema it is in, ``place`` its own place.

        Raises:
            CannotEnforce: it leads nowhere, to another document, or to different places by the way it was reached.
        """
        base = self.scope(inside)[0]
        url, fragment = urldefrag(base + reference if reference.startswith("#") else urljoin(base, reference))
        if url not in self._resources:
            raise CannotEnforce(f"{keyword} leads to another document: {reference}", place)
        root = self._resources[url]
        found = (
            self._follow(root, unquote(fragment)) if fragment[:1] in ("", "/") else self._anchors.get((url, fragment))
        )
        if found is None:
            raise CannotEnforce(f"{keyword} leads nowhere: {reference}", place, wrong=True)
        if keyword != "$ref":
            self._check_dynamic(keyword, fragment, place)
        return found

    def _check_dynamic(self, keyword: str, fragment: str, place: str) -> None:
        if len(self._dynamic.get(fragment, ())) > 1:
            raise CannotEnforce(f"{keyword} can lead to several places: {fragment}", place)

    def _follow(self, root: str, path: str) -> str | None:
        place, value = root, self.value(root)
        for token in path.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and token in value:
                value = value[token]
            elif isinstance(value, list) and token.isdecimal() and int(token) < len(value):
                value = value[int(token)]
            else:
                return None
            place = pointer(place, token)
        return place if isinstance(value, dict | bool) else None

    def value(self, place: str) -> Any:
        """What is at a place of the document."""
        value = self.document
        for token in place.split("/")[1:]:
            token = token.replace("~1", "/").replace("~0", "~")
            value = value[int(token)] if isinstance(value, list) else value[token]
        return value
