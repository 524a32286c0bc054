"""Request fields as people type them: which there are, and from text to value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.manager import Plugins

__all__ = ["NOT_FLAGS", "Field", "assignment", "field_table"]

NOT_FLAGS = ("messages", "model", "stream", "stream_options")
"""What the commands decide themselves."""

_KINDS = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}


@dataclass(frozen=True)
class Field:
    """A field of the request. ``schema`` is its property in the request's JSON schema."""

    name: str
    schema: Mapping[str, Any]
    definitions: Mapping[str, Any]

    @property
    def group(self) -> str:
        """Where it stands in lists."""
        return str(self.schema["x-group"])

    @cached_property
    def branches(self) -> tuple[Mapping[str, Any], ...]:
        """The alternatives of its schema, without null."""
        return tuple(item for item in _branches(self.schema, self.definitions) if item.get("type") != "null")

    @cached_property
    def kinds(self) -> frozenset[str]:
        """The JSON types that a value may have; none where the schema leaves it open."""
        stated = {kind for item in self.branches for kind in _as_list(item.get("type", []))}
        stated |= {_KINDS[type(value)] for value in self.choices if type(value) in _KINDS}
        return frozenset(stated | {"integer"} if "number" in stated else stated)

    @cached_property
    def choices(self) -> tuple[Any, ...]:
        """The values of an enumeration."""
        return tuple(value for item in self.branches for value in item.get("enum", ()))

    @property
    def repeats(self) -> bool:
        """Whether it is a list, so that its flag may be given again."""
        return "array" in self.kinds

    @property
    def metavar(self) -> str:
        """What stands for a value in the help."""
        if self.choices and not self.kinds - {"string"}:
            return "|".join(map(str, self.choices))
        for kind, shown in (("number", "FLOAT"), ("integer", "INTEGER")):
            if kind in self.kinds and not self.kinds - {"number", "integer"}:
                return shown
        return "TEXT" if self.kinds == {"string"} else "JSON"

    @property
    def help(self) -> str:
        """Its meaning, range and default, in a line."""
        limits = " ".join(f"{word} {item[key]}" for item in self.branches for key, word in _LIMITS if key in item)
        default = self.schema.get("default")
        parts = [str(self.schema.get("description", "")), limits and f"({limits})"]
        parts.append("" if default in (None, [], {}) else f"[default: {json.dumps(default)}]")
        return " ".join(part for part in parts if part)

    def parse(self, text: str) -> Any:
        """The value that ``text`` stands for: JSON, or a plain string where the field takes one; ``@FILE`` reads it.

        Raises:
            RequestError: a file cannot be read, or the text is no JSON and a string is no value.
        """
        text = self._read(text)
        if self.kinds == {"string"}:
            return text
        try:
            value = json.loads(text)
        except ValueError:
            return self._plain(text)
        kind = _KINDS.get(type(value))
        return text if "string" in self.kinds and kind is not None and kind not in self.kinds else value

    def parse_all(self, texts: Iterable[str]) -> Any:
        """The list that a repeated flag stands for; a single value that is whole by itself stays what it is."""
        values = [self._one_of_several(text) for text in texts]
        if len(values) == 1 and (isinstance(values[0], (list, dict)) or "string" in self.kinds):
            return values[0] if self._is_whole(values[0]) else values
        return [item for value in values for item in (value if isinstance(value, list) else [value])]

    def _one_of_several(self, text: str) -> Any:
        """Where a list holds strings alone, what reads as another value is a string too."""
        value = self.parse(text)
        return value if isinstance(value, (str, list)) or self._items != {"string"} else self._read(text)

    @property
    def _items(self) -> set[str]:
        """The JSON types of what a list may hold."""
        return {kind for item in self.branches for kind in _as_list(item.get("items", {}).get("type", []))}

    def _is_whole(self, value: Any) -> bool:
        return _KINDS.get(type(value)) in self.kinds

    def _plain(self, text: str) -> str:
        if self.kinds and "string" not in self.kinds and not ("array" in self.kinds and "string" in self._items):
            raise RequestError(f"should be {' or '.join(sorted(self.kinds))}, got {text!r}", param=self.name)
        return text

    def _read(self, text: str) -> str:
        if text.startswith("@@") or text == "@" or not text.startswith("@"):
            return text[1:] if text.startswith("@@") else text
        try:
            return Path(text[1:]).read_text("utf-8").removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RequestError(
                f"{text[1:]} cannot be read: {reason}; @@ begins a text with @", param=self.name
            ) from None


_LIMITS = (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below"))


def field_table(plugins: Plugins) -> dict[str, Field]:
    """All fields of the request with those that ``plugins`` add, by name, in the order of their groups."""
    from chatplan.fields import GROUPS, request_schema

    schema = request_schema(plugins)
    found = [Field(name, prop, schema.get("$defs", {})) for name, prop in schema["properties"].items()]
    order = {group: at for at, group in enumerate(GROUPS)}
    return {field.name: field for field in sorted(found, key=lambda field: order.get(field.group, len(order)))}


def assignment(table: Mapping[str, Field], text: str, param: str = "--set") -> tuple[str, Any]:
    """``temperature=0`` as a field and its value; a field that is not there is left to the request to refuse.

    Raises:
        RequestError: there is no ``=``, or the value is none.
    """
    name, equals, value = text.partition("=")
    if not equals:
        raise RequestError(f"is to be written as FIELD=VALUE, got {text!r}", param=param)
    name = name.strip().replace("-", "_")
    return name, table.get(name, Field(name, {}, {})).parse(value)


def _branches(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    if "$ref" in schema:
        yield from _branches(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        return
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    if not inner:
        yield schema
    for item in inner:
        yield from _branches(item, definitions)


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
