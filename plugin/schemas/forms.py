"""What each JSON Schema keyword must look like, and since which draft it is one."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

from chatplan.guided.backend import CannotEnforce

__all__ = ["SINCE", "TYPES", "check_document", "check_form", "dialect_of", "pointer", "shown"]

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
NESTING = 100

# https://json-schema.org/specification-links; drafts 4, 6, 7, 2019-09 and 2020-12. Keywords not named are older.
SINCE = {
    **dict.fromkeys(("const", "contains", "propertyNames"), 6),
    **dict.fromkeys(("if", "then", "else"), 7),
    **dict.fromkeys(("dependentRequired", "dependentSchemas", "minContains", "maxContains"), 2019),
    **dict.fromkeys(("unevaluatedItems", "unevaluatedProperties"), 2019),
    **dict.fromkeys(("prefixItems", "$dynamicRef"), 2020),
}
_DIALECTS = {"draft-04": 4, "draft-06": 6, "draft-07": 7, "draft/2019-09": 2019, "draft/2020-12": 2020}


def pointer(place: str, *tokens: str | int) -> str:
    """A JSON pointer (RFC 6901) to something below ``place``."""
    return place + "".join("/" + str(token).replace("~", "~0").replace("/", "~1") for token in tokens)


def shown(value: Any) -> str:
    """A value for a message, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def dialect_of(schema: dict[str, Any], default: int) -> int:
    """The year or number of the draft that ``$schema`` names; ``default`` where it names none that is known.

    Raises:
        CannotEnforce: it is a draft of other keywords.
    """
    name = schema.get("$schema")
    if isinstance(name, str) and re.match(r"https?://json-schema\.org/draft-0[0-3]/", name):
        raise CannotEnforce(f"schemas of a draft before the fourth are not supported: {name}", "/$schema")
    found = (year for part, year in _DIALECTS.items() if isinstance(name, str) and f"json-schema.org/{part}/" in name)
    return next(found, default)


def check_document(schema: Any) -> int:
    """The number of values in a schema, unless it is no JSON, or nested too deeply to be walked by recursion.

    Raises:
        CannotEnforce: the schema holds an infinite number, or more than 100 levels.
    """
    count = 0
    stack: list[tuple[Any, str, int]] = [(schema, "", 0)]
    while stack:
        count += 1
        value, place, depth = stack.pop()
        if depth > NESTING:
            raise CannotEnforce(f"the schema is nested more than {NESTING} levels deep", wrong=True)
        if isinstance(value, float) and not math.isfinite(value):
            raise CannotEnforce("the schema has a number that is infinite or not a number", place, wrong=True)
        if isinstance(value, dict):
            stack += [(item, pointer(place, str(key)), depth + 1) for key, item in value.items()]
        elif isinstance(value, list):
            stack += [(item, pointer(place, index), depth + 1) for index, item in enumerate(value)]
        elif not isinstance(value, str | int | float | None):
            raise CannotEnforce(f"the schema has a value that is not JSON: {type(value).__name__}", place, wrong=True)
    return count


def check_form(keyword: str, value: Any, place: str) -> None:
    """Refuse a keyword whose value the standard does not allow.

    Raises:
        CannotEnforce: the value has the wrong form; it says which form is right.
    """
    rule = _FORMS.get(keyword)
    if rule and not rule[0](value):
        raise CannotEnforce(f'"{keyword}" must be {rule[1]}, not {shown(value)}', place, wrong=True)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _number(value) and value >= 0 and value == int(value)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _type(value: Any) -> bool:
    return value in TYPES if isinstance(value, str) else _strings(value) and bool(value) and set(value) <= set(TYPES)


def _schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_schema, value))


def _schema_map(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_schema, value.values()))


_Rule = tuple[Callable[[Any], bool], str]
_A_COUNT: _Rule = (_count, "a whole number that is not negative")
_A_NUMBER: _Rule = (_number, "a number")
_A_BOUND: _Rule = (lambda value: isinstance(value, int | float), "a number")
_A_SCHEMA: _Rule = (_schema, "a schema: an object, true or false")
_A_LIST: _Rule = (_schemas, "a list of schemas that is not empty")
_A_MAP: _Rule = (_schema_map, "an object of schemas")
_A_STRING: _Rule = (lambda value: isinstance(value, str), "a string")

_FORMS: dict[str, _Rule] = {
    "type": (_type, f"one of {', '.join(TYPES)}, or a list of some"),
    "enum": (lambda value: isinstance(value, list) and bool(value), "a list that is not empty"),
    "multipleOf": (lambda value: _number(value) and value > 0, "a number above 0"),
    "required": (_strings, "a list of strings"),
    "items": (lambda value: _schema(value) or (isinstance(value, list) and all(map(_schema, value))), "a schema"),
    "prefixItems": _A_LIST,
    "uniqueItems": (lambda value: isinstance(value, bool), "true or false"),
    "dependencies": (
        lambda value: isinstance(value, dict) and all(_schema(v) or _strings(v) for v in value.values()),
        "an object of schemas and lists of strings",
    ),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_strings, value.values())),
        "an object of lists of strings",
    ),
    **dict.fromkeys(("minimum", "maximum"), _A_NUMBER),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum"), _A_BOUND),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _A_COUNT),
    **dict.fromkeys(("minContains", "maxContains"), _A_COUNT),
    **dict.fromkeys(("allOf", "anyOf", "oneOf"), _A_LIST),
    **dict.fromkeys(("properties", "patternProperties", "dependentSchemas"), _A_MAP),
    **dict.fromkeys(("additionalProperties", "additionalItems", "propertyNames", "contains", "not"), _A_SCHEMA),
    **dict.fromkeys(("if", "then", "else", "unevaluatedItems", "unevaluatedProperties"), _A_SCHEMA),
    **dict.fromkeys(("pattern", "format", "$ref", "$dynamicRef", "$recursiveRef"), _A_STRING),
}
