"""Values of JSON: those in the text of a constraint, and which of them a type or a keyword takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.constraint import Constraint
from chatplan.guided.honours import Schema

__all__ = ["TYPES", "are_disjoint", "choices", "is_exact", "is_of", "json_value", "takes", "whole"]

TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "number": (int, float), "integer": (int, float), "boolean": (bool,), "null": (type(None),),
    "object": (dict,), "array": (list,),
}  # fmt: skip
_GREATEST = 2**53  # beyond, not every whole number is a double, which libraries read numbers as


def json_value(constraint: Constraint) -> Any:
    """The constraint's text as an object.

    Raises:
        CannotEnforce: it is not JSON, or has characters that are not Unicode.
    """
    try:
        value = constraint.value
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except RecursionError:
        raise CannotEnforce("it is nested too deeply", wrong=True) from None
    except ValueError as error:
        raise CannotEnforce(f"not valid JSON: {error}", wrong=True) from None
    return value


def choices(constraint: Constraint) -> list[str]:
    """The texts of which the answer is to be one, each once.

    Raises:
        CannotEnforce: they are not texts, or there are none.
    """
    value = json_value(constraint)
    if not isinstance(value, list) or not value or not all(isinstance(choice, str) for choice in value):
        raise CannotEnforce("choices must be a list of texts that is not empty", wrong=True)
    return list(dict.fromkeys(value))


def is_of(value: Any, name: str) -> bool:
    """Whether a value is of the type of that name; 1.0 is an integer."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return isinstance(value, TYPES[name]) and name not in ("number", "integer")
    return name == "number" or (name == "integer" and value == int(value))


def is_exact(value: Any) -> bool:
    """Whether all numbers in it are read alike by all libraries."""
    if isinstance(value, (list, dict)):
        return all(map(is_exact, value.values() if isinstance(value, dict) else value))
    return not isinstance(value, int) or abs(value) <= _GREATEST


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and is_exact(value)


def _is_count(value: Any) -> bool:
    return _is_number(value) and 0 <= value < 2**31 and value == int(value)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len({*value}) == len(value)


_VALUES: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), _is_number),
    **dict.fromkeys(("pattern", "format"), lambda value: isinstance(value, str)),
    "properties": lambda value: isinstance(value, dict),
    "prefixItems": lambda value: isinstance(value, list) and bool(value),
    "required": _are_names,
}


def takes(word: str, value: Any) -> bool:
    """Whether a keyword may have the value; of one that is not known here, whether the value is exact."""
    return _VALUES.get(word, is_exact)(value)


def whole(value: Any) -> Any:
    """The value; if it is a whole number, as an ``int``."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def are_disjoint(parts: Sequence[Sequence[Schema]]) -> bool:
    """Whether no value is of two of them, which we know by the types of JSON alone."""
    names = [{name for schema in part for name in _names(schema)} for part in parts]
    return sum(map(len, names)) == len(set[str]().union(*names))


def _names(schema: Schema) -> set[str]:
    if "enum" in schema:
        return {name for name in TYPES for value in schema["enum"] if name != "integer" and is_of(value, name)}
    return {"number" if schema["type"] == "integer" else schema["type"]}
