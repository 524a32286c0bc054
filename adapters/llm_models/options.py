"""The options of ``llm``: fields of the request, read from what was typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

import llm
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, WithJsonSchema, create_model
from pydantic.fields import FieldInfo

from chatplan.request import ChatCompletionRequest

__all__ = ["options_of"]

# What `llm` has arguments of its own for, or decides itself.
_ELSEWHERE = frozenset("messages model stream stream_options tools guided_json response_format request_id".split())


@lru_cache(maxsize=8)
def options_of(request_type: type[ChatCompletionRequest]) -> type[llm.Options]:
    """Options with the types, ranges and descriptions of the fields; absent ones are ``None``."""
    fields: dict[str, Any] = {
        name: (_option(field), Field(None, description=field.description))
        for name, field in request_type.model_fields.items()
        if name not in _ELSEWHERE
    }
    made: type[llm.Options] = create_model("Options", __base__=llm.Options, **fields)
    return made


def _option(field: FieldInfo) -> Any:
    wanted: Any = field.annotation
    made: Any = create_model("Option", value=(wanted, field))
    schema = made.model_json_schema()
    shown = {} if "$defs" in schema else schema["properties"]["value"]  # definitions would have no place in `llm`'s
    return Annotated[Any, BeforeValidator(_reader(made)), WithJsonSchema(shown)]


def _reader(one: type[BaseModel]) -> Callable[[Any], Any]:
    """Checks a value and gives it back as plain JSON, which ``llm`` can keep in its log.

    What was typed is read as JSON where the field takes that, else as a string.
    """

    def read(value: Any) -> Any:
        parsed = _parsed(value)
        try:
            one(value=parsed)
            return parsed
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
        try:
            one(value=value)
            return value
        except ValidationError:
            raise ValueError(reason) from None

    return read


def _parsed(value: Any) -> Any:
    try:
        parsed = json.loads(value) if isinstance(value, str) else None
    except ValueError:
        return value
    return value if parsed is None else parsed
