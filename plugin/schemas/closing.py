"""Schemas whose objects have no properties but those they list."""

from __future__ import annotations

from typing import Any

from chatplan.errors import RequestError

__all__ = ["can_close", "closed_schema"]

_ONE = ("items", "additionalProperties", "contains")
_MANY = ("prefixItems", "anyOf", "oneOf", "allOf")
_NAMED = ("properties", "patternProperties", "$defs", "definitions")
_DATA = ("enum", "const", "default", "examples")
_IN_PLACE = ("allOf", "anyOf", "oneOf", "if", "dependentSchemas", "dependencies")


def closed_schema(schema: Any, param: str) -> Any:
    """``schema`` with ``additionalProperties: false`` at every object that says nothing of them.

    Raises:
        RequestError: parts of it describe one object together, so that none of them can be closed by itself.
    """
    if not can_close(schema):
        raise RequestError("parts of the schema describe one object together (allOf, if …)", param=param)
    return _closed(schema)


def can_close(schema: Any) -> bool:
    """Whether every object of ``schema`` is described in one place."""
    if isinstance(schema, list):
        return all(map(can_close, schema))
    if not isinstance(schema, dict):
        return True
    if "properties" in schema and "$ref" in schema:
        return False
    own = "properties" in schema or "$ref" in schema
    shared = [name for name in _IN_PLACE if name in schema]
    if "allOf" in shared and _count(schema["allOf"]) == 1 and not own:
        shared.remove("allOf")
    if shared and (own or set(shared) - {"anyOf", "oneOf"}):
        return False
    named = [list(schema[name].values()) for name in _NAMED if isinstance(schema.get(name), dict)]
    return all(can_close(value) for name, value in schema.items() if name not in (*_NAMED, *_DATA)) and can_close(named)


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    for name in _ONE:
        if name in schema:
            closed[name] = _closed(schema[name])
    for name in _MANY:
        if isinstance(schema.get(name), list):
            closed[name] = [_closed(item) for item in schema[name]]
    for name in _NAMED:
        if isinstance(schema.get(name), dict):
            closed[name] = {key: _closed(item) for key, item in schema[name].items()}
    elsewhere = any(name in schema for name in ("$ref", *_IN_PLACE))
    if "properties" in schema or (_may_be_object(schema) and not elsewhere):
        closed.setdefault("additionalProperties", False)
    return closed


def _may_be_object(schema: dict[str, Any]) -> bool:
    types = schema.get("type")
    return "patternProperties" in schema or types == "object" or (isinstance(types, list) and "object" in types)
