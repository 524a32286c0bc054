"""JSON schemas reduced to what a library is known to enforce, or refused.

Libraries leave out, without a word, what they do not know. So nothing reaches them but a small core of JSON Schema,
in one spelling, and only the keywords that are in the library's own table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.honours import Honours, Schema
from chatplan.guided.patterns import FORMATS, portable
from chatplan.guided.values import TYPES, are_disjoint, is_exact, is_of, takes, whole
from chatplan.guided.vocabulary import JSON_STRING

__all__ = ["honoured"]

_ANNOTATIONS = frozenset(
    "title description default examples example deprecated readOnly writeOnly discriminator contentMediaType "
    "contentEncoding contentSchema $comment $defs definitions".split()
)
_MOST_ALTERNATIVES = 10_000


def honoured(schema: Any, honours: Honours, place: str = "") -> Schema:
    """The schema in the one spelling that libraries get, never weaker than it was.

    It is stronger in this: an object has no properties beside named ones, whether the schema says so or not.

    Raises:
        CannotEnforce: for the first keyword that the library would ignore or get wrong, with its place.
    """
    try:
        return _Walk(schema, honours, place).result()
    except RecursionError:
        raise CannotEnforce("the schema is nested too deeply", place) from None


class _Walk:
    """One way through a schema and all that it refers to."""

    def __init__(self, root: Any, honours: Honours, place: str) -> None:
        self.root, self.honours, self.start = root, honours, place
        self.names: dict[str, str] = {}  # of the definitions, by their place
        self.definitions: dict[str, Schema] = {}
        self.open: list[str] = []
        self.unions: list[tuple[str, bool, Schema]] = []
        self.plain: dict[str, list[Schema] | None] = {}

    def result(self) -> Schema:
        schema = self.schema(self.root, self.start)
        for name in self.definitions:
            self._plain({"$ref": name})
        for place, exclusive, union in self.unions:
            parts = [self._plain(alternative) for alternative in union["anyOf"]]
            if exclusive and not are_disjoint(parts):
                raise self.refused(place, "it does not enforce that one alternative alone matches")
            nested = any(
                "$ref" in alternative and len(part) > 1 for alternative, part in zip(union["anyOf"], parts, strict=True)
            )
            self._check({"anyOf": [schema for part in parts for schema in part], "nested": nested}, place)
        return {**schema, "$defs": self.definitions} if self.definitions else schema

    def refused(self, place: str, reason: str, wrong: bool = False) -> CannotEnforce:
        return CannotEnforce(f"{self.honours.library} cannot enforce this schema: {reason}", place, wrong)

    def schema(self, node: Any, place: str) -> Schema:
        if node is True or node == {}:
            return self._any_of([self._of_type(name, {}, place) for name in TYPES if name != "integer"], place)
        if not isinstance(node, dict):
            raise self.refused(place, "no value matches false" if node is False else "it is neither an object nor true")
        skipped = _ANNOTATIONS | {"$schema", "$id"} if place == self.start else _ANNOTATIONS
        rest = {key: value for key, value in node.items() if key not in skipped and not key.startswith("x-")}
        for key, read in _FORMS.items():
            if key in rest:
                return read(self, rest, key, place)
        if rest:
            key = next(iter(rest))
            raise self.refused(f"{place}/{_escaped(key)}", f'{key!r} stands without "type"')
        return self.schema(True, place)

    def _check(self, schema: Schema, place: str) -> Schema:
        if reason := self.honours.refuse(schema):
            raise self.refused(place, reason)
        return schema

    def only(self, rest: Schema, allowed: Collection[str], place: str, beside: str) -> None:
        for key in rest:
            if key not in allowed:
                raise self.refused(f"{place}/{_escaped(key)}", f"it does not enforce {key!r} beside {beside}")

    # --- references and alternatives -------------------------------------------------------------------------------

    def reference(self, rest: Schema, key: str, place: str) -> Schema:
        self.only(rest, (key,), place, repr(key))
        target, found = self._target(rest[key], f"{place}/{key}")
        if found in self.open and not self.honours.recursion:
            raise self.refused(f"{place}/{key}", "it cannot express a schema that refers to itself")
        if found not in self.names:
            name = self.names[found] = f"#/$defs/d{len(self.names)}"
            self.open.append(found)
            self.definitions[name.rpartition("/")[2]] = self.schema(target, found)
            self.open.pop()
        return {"$ref": self.names[found]}

    def _target(self, reference: Any, place: str) -> tuple[Any, str]:
        if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
            raise self.refused(place, "references must be JSON pointers into the schema itself")
        node, found = self.root, self.start
        for part in reference.split("/")[1:]:
            key = unquote(part).replace("~1", "/").replace("~0", "~")
            inside = dict(enumerate(node)) if isinstance(node, list) else node
            at: Any = int(key) if isinstance(node, list) and key.isdecimal() and len(key) < 9 else key
            if not isinstance(inside, dict) or at not in inside or ("$id" in inside and node is not self.root):
                raise self.refused(place, f"{reference!r} is not in the schema", wrong=True)
            node, found = inside[at], f"{found}/{part}"
        return node, found

    def union(self, rest: Schema, key: str, place: str) -> Schema:
        self.only(rest, (key,), place, repr(key))
        parts, place = rest[key], f"{place}/{key}"
        if not isinstance(parts, list) or not parts:
            raise self.refused(place, f"{key!r} must be a list of schemas that is not empty", wrong=True)
        if key == "allOf" and len(parts) > 1:
            raise self.refused(place, "it does not enforce several schemas at once")
        alternatives = [self.schema(part, f"{place}/{at}") for at, part in enumerate(parts)]
        return self._any_of(alternatives, place, key == "oneOf") if len(parts) > 1 else alternatives[0]

    def _any_of(self, alternatives: list[Schema], place: str, exclusive: bool = False) -> Schema:
        self.unions.append((place, exclusive, {"anyOf": alternatives}))
        return {"anyOf": [part for alternative in alternatives for part in alternative.get("anyOf", (alternative,))]}

    def _plain(self, schema: Schema) -> list[Schema]:
        """The alternatives that it comes to, none of them a reference or a union."""
        if "anyOf" in schema:
            found = [part for alternative in schema["anyOf"] for part in self._plain(alternative)]
            unique = list({id(part): part for part in found}.values())
            if len(unique) > _MOST_ALTERNATIVES:
                raise self.refused(self.start, "it has too many alternatives")
            return unique
        if "$ref" not in schema:
            return [schema]
        name = schema["$ref"].rpartition("/")[2]
        if name not in self.plain:
            self.plain[name] = None
            self.plain[name] = self._plain(self.definitions[name])
        if (known := self.plain[name]) is None:
            raise self.refused(self.start, "a reference leads back to itself", wrong=True)
        return known

    # --- values and types ------------------------------------------------------------------------------------------

    def values(self, rest: Schema, key: str, place: str) -> Schema:
        self.only(rest, (key, "type"), place, repr(key))
        values = [rest[key]] if key == "const" else rest[key]
        names = self._type_names(rest["type"], place) if "type" in rest else tuple(TYPES)
        found = [v for v in values if any(is_of(v, name) for name in names)] if isinstance(values, list) else []
        if not found or not all(map(is_exact, found)):
            raise self.refused(f"{place}/{key}", "it needs a list of values, with no whole number beyond 2**53")
        return self._check({"enum": found}, f"{place}/{key}")

    def _type_names(self, names: Any, place: str) -> Sequence[str]:
        found = names if isinstance(names, list) else [names]
        if not found or not all(isinstance(name, str) and name in TYPES for name in found):
            raise self.refused(f"{place}/type", "it is no type of JSON, nor a list of types", wrong=True)
        return found

    def typed(self, rest: Schema, key: str, place: str) -> Schema:
        names = self._type_names(rest.get("type", "object"), place)  # properties alone stand for an object
        known = {name: {"type", *self.honours.keywords.get(name, ())} for name in names}
        self.only(rest, set[str]().union(*known.values()), place, f'"type": {json.dumps(rest.get("type"))}')
        for word, value in rest.items():
            if not takes(word, value):
                raise self.refused(f"{place}/{word}", f"{word!r} has no such value", wrong=True)
        parts = [self._of_type(name, {k: rest[k] for k in rest if k in known[name]}, place) for name in names]
        return parts[0] if len(parts) == 1 else self._any_of(parts, f"{place}/type")

    def _of_type(self, name: str, rest: Schema, place: str) -> Schema:
        rest = {key: whole(value) for key, value in rest.items()} | {"type": name}
        for least, most in (("minLength", "maxLength"), ("minItems", "maxItems")):
            if rest.get(least, 0) > rest.get(most, rest.get(least, 0)):
                raise self.refused(f"{place}/{most}", f"no value has {least!r} and {most!r}")
            if not rest.get(least, 1):
                del rest[least]
        read = {"string": self._string, "object": self._object, "array": self._array}.get(name)
        return self._check(read(rest, place) if read else rest, place)

    def _string(self, rest: Schema, place: str) -> Schema:
        key = "pattern" if "pattern" in rest else "format"
        if key not in rest:
            counted = {"minLength", "maxLength"} & rest.keys() and not self.honours.lengths
            return {"type": "string", "pattern": _counted(rest)} if counted else rest
        self.only(rest, ("type", key), place, repr(key))
        given = rest[key] if key == "pattern" else FORMATS.get(rest[key])
        if given is None:
            raise self.refused(f"{place}/{key}", f"it does not enforce the format {rest[key]!r}")
        try:
            return {"type": "string", "pattern": portable(given, forbidden=JSON_STRING, search=key == "pattern")}
        except CannotEnforce as error:
            raise self.refused(f"{place}/{key}", error.reason) from None

    def _object(self, rest: Schema, place: str) -> Schema:
        named, others = rest.get("properties", {}), rest.get("additionalProperties", True)
        if missing := [name for name in rest.get("required", ()) if name not in named]:
            raise self.refused(f"{place}/required", f"{missing[0]!r} is not among the properties")
        if named and not isinstance(others, bool):
            raise self.refused(f"{place}/additionalProperties", "it does not enforce a schema beside named properties")
        if not named and others is not False and not ("properties" in rest and "additionalProperties" not in rest):
            more = (
                {} if others is True else {"additionalProperties": self.schema(others, f"{place}/additionalProperties")}
            )
            return {"type": "object", **more}
        parts = {name: self.schema(part, f"{place}/properties/{_escaped(name)}") for name, part in named.items()}
        return {"type": "object", "properties": parts, "required": rest.get("required", [])}

    def _array(self, rest: Schema, place: str) -> Schema:
        items = rest.pop("items", True)
        if "prefixItems" not in rest:
            return rest if items is True else {**rest, "items": self.schema(items, f"{place}/items")}
        parts = rest["prefixItems"]
        if not isinstance(items, bool) or not rest.get("minItems", 0) <= len(parts) <= rest.get("maxItems", len(parts)):
            raise self.refused(
                f"{place}/prefixItems", "it does not enforce other items beside these, nor another count"
            )
        return {
            **rest,
            "prefixItems": [self.schema(part, f"{place}/prefixItems/{at}") for at, part in enumerate(parts)],
        }


_Read = Callable[[_Walk, Schema, str, str], Schema]
_FORMS: Mapping[str, _Read] = {
    "$ref": _Walk.reference, "allOf": _Walk.union, "anyOf": _Walk.union, "oneOf": _Walk.union, "const": _Walk.values,
    "enum": _Walk.values, "type": _Walk.typed, "properties": _Walk.typed,
}  # fmt: skip


def _counted(rest: Schema) -> str:
    character = portable(r"[\s\S]", forbidden=JSON_STRING)
    return f"{character}{{{rest.get('minLength', 0)},{rest.get('maxLength', '')}}}"


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
