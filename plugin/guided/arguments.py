"""What a function takes, as a schema that its calls are kept to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.errors import RequestError
from chatplan.guided.backend import CannotEnforce
from chatplan.request_rules import shown
from chatplan.schemas.closing import can_close, closed_schema
from chatplan.schemas.prepare import prepare

__all__ = ["ANY_ARGUMENTS", "arguments_schema"]

ANY_ARGUMENTS: Mapping[str, Any] = {"type": "object"}
_NO_ARGUMENTS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def arguments_schema(parameters: Mapping[str, Any] | None, param: str) -> Mapping[str, Any]:
    """The schema of a call's arguments: an object with what ``parameters`` lists, since others would be an error.

    Raises:
        RequestError: ``parameters`` describe no object, or cannot be enforced; ``param`` is the field they stand in.
    """
    if parameters is None:
        return _NO_ARGUMENTS
    kinds = parameters.get("type", "object")
    if "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        raise RequestError(f"should be object, since arguments are one, got {shown(kinds)}", param=f"{param}.type")
    schema = {**parameters, "type": "object"}
    try:
        prepare(schema)
    except CannotEnforce as error:
        raise RequestError(str(error), param=param) from error
    return closed_schema(schema, param) if can_close(schema) else schema
