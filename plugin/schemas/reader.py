"""A JSON schema of any draft, read into the keywords of 2020-12, checked, with its references made plain."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.formats import DEFINED, ENFORCED, PATTERNS
from chatplan.schemas.forms import SINCE, check_document, check_form, pointer
from chatplan.schemas.patterns import translated
from chatplan.schemas.references import References

__all__ = ["Document", "Node", "read"]

EFFORT = 300_000

log: logging.Logger = logging.getLogger(__name__)

Node = dict[str, Any] | bool

_HERE = frozenset("allOf anyOf oneOf not if then else dependentSchemas".split())
_ONE = frozenset(
    """additionalProperties contains else if items not propertyNames then
    unevaluatedItems unevaluatedProperties""".split()
)
_LISTS = frozenset(("allOf", "anyOf", "oneOf", "prefixItems"))
_MAPS = frozenset(("properties", "dependentSchemas"))
_COUNTS = frozenset("minLength maxLength minItems maxItems minProperties maxProperties minContains maxContains".split())
_PLAIN = frozenset("type enum const required dependentRequired uniqueItems multipleOf minimum maximum".split())


class _Scope(NamedTuple):
    place: str
    dialect: int
    textual: bool
    """Whether a "type" that includes strings holds here, so that a format is meant to be enforced."""


class Document:
    """A schema in the keywords of 2020-12, without annotations.

    Attributes:
        root: the schema; references in it are ``#`` or ``#/$defs/`` and a name of ``targets``.
        targets: the schemas that references lead to.
        size: how many values the original consists of.
    """

    def __init__(self, schema: Any, size: int) -> None:
        self.size = size
        self.references: References = References(schema)
        self.targets: dict[str, Node] = {}
        self._names: dict[str, str] = {"": "#"}
        self._places: dict[int, str] = {}
        self._todo: list[tuple[str, str]] = []
        self._effort = EFFORT + 20 * size
        self.root: Node = self._read(schema, "", textual=False)
        while self._todo:
            name, place = self._todo.pop()
            self.targets[name] = self._read(self.references.value(place), place, textual=False)

    def _read(self, schema: Any, place: str, textual: bool) -> Node:
        return _Reader(self).read(schema, _Scope(place, self.references.scope(place)[1], textual))

    def place(self, node: Any, otherwise: str) -> str:
        """Where a schema of this document comes from; ``otherwise`` for one that was made up."""
        return self._places.get(id(node), otherwise)

    def put(self, node: dict[str, Any], place: str) -> dict[str, Any]:
        """Remember where a schema comes from."""
        self._places[id(node)] = place
        return node

    def spend(self, place: str) -> None:
        """Count a step of work on this document. Raises :class:`CannotEnforce` when there have been too many."""
        self._effort -= 1
        if self._effort < 0:
            raise CannotEnforce("the schema is too complicated", place)

    def target(self, reference: str) -> Node:
        """The schema that a reference leads to."""
        return self.root if reference == "#" else self.targets[reference.rpartition("/")[2]]

    def name(self, place: str) -> str:
        """The reference that leads to a place of the original schema, which is then read as well."""
        if place not in self._names:
            name = f"d{len(self._names)}"
            self._names[place] = f"#/$defs/{name}"
            self._todo.append((name, place))
        return self._names[place]


def read(schema: Any) -> Document:
    """The schema in the keywords of 2020-12.

    Raises:
        CannotEnforce: it is malformed, or needs another document, or a format that is not enforced.
    """
    size = check_document(schema)
    if not isinstance(schema, dict | bool):
        raise CannotEnforce("a schema must be an object, true or false", wrong=True)
    return Document(schema, size)


class _Reader:
    def __init__(self, document: Document) -> None:
        self._document = document

    def read(self, schema: Any, scope: _Scope) -> Node:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise CannotEnforce("a schema must be an object, true or false", scope.place, wrong=True)
        scope = scope._replace(dialect=self._document.references.scope(scope.place)[1])
        if 0 < scope.dialect <= 7 and "$ref" in schema:
            schema = {"$ref": schema["$ref"]}
        types = schema.get("type")
        textual = "string" in types if isinstance(types, str | list) else scope.textual
        node = self._document.put({}, scope.place)
        for keyword, name, value in _modern(schema):
            place = pointer(scope.place, name)
            check_form(name, value, place)
            if SINCE.get(name, 0) <= (scope.dialect or 2020):
                self._keyword(node, keyword, value, scope._replace(place=place, textual=textual))
        return node

    def _keyword(self, node: dict[str, Any], keyword: str, value: Any, scope: _Scope) -> None:
        child = scope if keyword in _HERE else scope._replace(textual=False)
        if keyword in _PLAIN or keyword.startswith("exclusive"):
            node[keyword] = value
        elif keyword in _COUNTS:
            self._also(node, keyword, int(value), scope.place)
        elif keyword in _ONE:
            node[keyword] = self.read(value, child)
        elif keyword in _LISTS:
            read = [self.read(v, child._replace(place=pointer(scope.place, i))) for i, v in enumerate(value)]
            node.setdefault(keyword, []).extend(read)
        elif keyword in _MAPS:
            node[keyword] = {k: self.read(v, child._replace(place=pointer(scope.place, k))) for k, v in value.items()}
        elif keyword in ("$ref", "$dynamicRef", "$recursiveRef"):
            self._reference(node, keyword, value, scope.place)
        elif keyword in ("pattern", "patternProperties", "format", "dependencies"):
            getattr(self, f"_{keyword}")(node, value, scope)

    def _reference(self, node: dict[str, Any], keyword: str, value: str, place: str) -> None:
        inside = place.rpartition("/")[0]
        target = self._document.references.target(keyword, value, inside, place)
        self._also(node, "$ref", self._document.name(target), place)

    def _also(self, node: dict[str, Any], keyword: str, value: Any, place: str) -> None:
        """Add a keyword, beside an equal one if need be."""
        if keyword not in node:
            node[keyword] = value
        else:
            node.setdefault("allOf", []).append(self._document.put({keyword: value}, place))

    def _pattern(self, node: dict[str, Any], value: str, scope: _Scope) -> None:
        self._also(node, "pattern", _pattern(value, scope.place), scope.place)

    def _patternProperties(self, node: dict[str, Any], value: dict[str, Any], scope: _Scope) -> None:
        inner = scope._replace(textual=False)
        read = {}
        for key, item in value.items():
            place = pointer(scope.place, key)
            read[_pattern(key, place)] = self.read(item, inner._replace(place=place))
        node["patternProperties"] = read

    def _format(self, node: dict[str, Any], value: str, scope: _Scope) -> None:
        types = node.get("type", ["string"])
        if value not in DEFINED:
            log.debug("format %r is of no JSON Schema draft, an annotation: left out (%s)", value, scope.place)
        elif not scope.textual and "string" in types:
            raise CannotEnforce(
                f'whether "format": "{value}" is to be enforced is unclear without a type; add "type": "string"',
                scope.place,
            )
        elif not scope.textual:
            return
        elif value in PATTERNS:
            self._also(node, "pattern", PATTERNS[value], scope.place)
        elif value in ENFORCED:
            node["format"] = value
            if value == "hostname":  # RFC 1123 section 2.1 by way of RFC 1035 section 3.1; llguidance has no limit
                self._also(node, "maxLength", 253, scope.place)
        else:
            raise CannotEnforce(f"strings of the format {value} are not supported", scope.place)

    def _dependencies(self, node: dict[str, Any], value: dict[str, Any], scope: _Scope) -> None:
        for key, item in value.items():
            place = pointer(scope.place, key)
            if isinstance(item, list):
                extra: dict[str, Any] = {"dependentRequired": {key: item}}
            else:
                extra = {"dependentSchemas": {key: self.read(item, scope._replace(place=place))}}
            node.setdefault("allOf", []).append(self._document.put(extra, place))


def _pattern(value: str, place: str) -> str:
    try:
        return translated(value)
    except ValueError as error:
        raise CannotEnforce(f"the pattern {value} cannot be enforced: {error}", place) from None


def _modern(schema: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """The keywords in the forms of 2020-12, each with the name it has in the schema and its value."""
    tuple_form = isinstance(schema.get("items"), list)
    for name, value in schema.items():
        keyword = name
        if tuple_form and name in ("items", "additionalItems"):
            keyword = "prefixItems" if name == "items" else "items"
        empty = tuple_form and name == "items" and not value
        if empty or (tuple_form and name == "prefixItems") or keyword == "additionalItems":
            continue
        if isinstance(value, bool) and name in ("exclusiveMinimum", "exclusiveMaximum"):
            continue
        if name in ("minimum", "maximum") and schema.get(f"exclusive{name.capitalize()}") is True:
            keyword = f"exclusive{name.capitalize()}"
        yield keyword, name, value
