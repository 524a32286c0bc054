"""From request fields to a constraint: the ``guided_*`` fields, ``structured_outputs`` and ``response_format``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from chatplan.errors import RequestError
from chatplan.guided.constraint import Constraint, Kind
from chatplan.request_rules import shown
from chatplan.schemas.closing import closed_schema

if TYPE_CHECKING:
    from chatplan.request import ChatCompletionRequest
    from chatplan.request_types import StructuredOutputs

__all__ = ["wished"]

_DEFAULT_WHITESPACE = "[ ]?"
_ANY_OBJECT = {"type": "object"}


def wished(request: ChatCompletionRequest) -> Constraint | None:
    """The constraint that the request asks for. Raises :class:`RequestError` for JSON that is none."""
    try:
        return _wished(request)
    except RecursionError:
        raise RequestError("is nested too deeply", param=_field(request)) from None
    except (TypeError, ValueError) as error:  # of Python objects that JSON has no word for
        raise RequestError(f"is no JSON: {error}", param=_field(request)) from error


def _field(request: ChatCompletionRequest) -> str:
    names = ("structured_outputs", "response_format", "guided_json")
    return next((name for name in names if getattr(request, name) is not None), "guided_choice")


def _wished(request: ChatCompletionRequest) -> Constraint | None:
    whitespace = request.guided_whitespace_pattern
    if request.structured_outputs is not None:
        return _structured(request.structured_outputs, whitespace)
    if request.response_format is not None:
        return _response_format(request, whitespace)
    if request.guided_json is not None:
        return _json(_schema(request.guided_json, "guided_json"), "guided_json", whitespace)
    if request.guided_choice is not None:
        return Constraint.of("choice", request.guided_choice, param="guided_choice")
    if request.guided_regex is not None:
        return Constraint("regex", request.guided_regex, param="guided_regex")
    if request.guided_grammar is not None:
        return Constraint("grammar", request.guided_grammar, param="guided_grammar")
    return None


def _structured(wish: StructuredOutputs, whitespace: str | None) -> Constraint:
    kind = wish.kinds[0]
    param = f"structured_outputs.{kind}"
    _refuse_without_effect(wish, kind, whitespace)
    if wish.whitespace_pattern is not None:
        whitespace = wish.whitespace_pattern
    if wish.disable_any_whitespace:
        whitespace = ""
    if kind in ("json", "json_object"):
        schema = _ANY_OBJECT if kind == "json_object" else _schema(wish.json_schema, param)
        return _json(closed_schema(schema, param) if wish.disable_additional_properties else schema, param, whitespace)
    if kind == "structural_tag":
        tag = _object(wish.structural_tag, param)
        return Constraint.of("structural_tag", tag, param=param, **_blanks(whitespace))
    texts: dict[str, tuple[Kind, Any]] = {
        "regex": ("regex", wish.regex),
        "grammar": ("grammar", wish.grammar),
        "choice": ("choice", json.dumps(wish.choice, ensure_ascii=False)),
    }
    return Constraint(*texts[kind], param=param)


def _refuse_without_effect(wish: StructuredOutputs, kind: str, whitespace: str | None) -> None:
    """Options that would be ignored are refused."""
    blanks = [
        name for name in ("disable_any_whitespace", "whitespace_pattern") if getattr(wish, name) not in (None, False)
    ]
    closes = ["disable_additional_properties"] if wish.disable_additional_properties else []
    useless = {"json": [], "json_object": [], "structural_tag": closes}.get(kind, [*blanks, *closes])
    if useless:
        raise RequestError(f"has no effect on {kind}", param=f"structured_outputs.{useless[0]}")
    names = [
        *(f"structured_outputs.{name}" for name in blanks),
        *(["guided_whitespace_pattern"] if whitespace is not None else []),
    ]
    if len(names) > 1:
        raise RequestError(f"only one of {', '.join(names)} can hold", param=names[1])


def _response_format(request: ChatCompletionRequest, whitespace: str | None) -> Constraint | None:
    wish = request.response_format
    if wish is None or wish.type == "text":
        return None
    if wish.type == "json_object":
        return _json(_ANY_OBJECT, "response_format", whitespace)
    if wish.type == "structural_tag":
        tag = wish.model_dump(exclude_unset=True)
        return Constraint.of("structural_tag", tag, param="response_format", **_blanks(whitespace))
    schema = None if wish.json_schema is None else wish.json_schema.json_schema
    return _json(schema, "response_format.json_schema.schema", whitespace)


def _json(schema: Any, param: str, whitespace: str | None) -> Constraint:
    return Constraint.of("json", schema, param=param, **_blanks(whitespace))


def _blanks(whitespace: str | None) -> dict[str, str]:
    return {"whitespace": _DEFAULT_WHITESPACE if whitespace is None else whitespace}


def _schema(value: Any, param: str) -> Any:
    """A schema that may be given as a string that holds it."""
    found = _parsed(value, param)
    if not isinstance(found, (dict, bool)):
        raise RequestError(f"should be a JSON schema, an object, got {shown(value)}", param=param)
    return found


def _object(value: Any, param: str) -> dict[str, Any]:
    found = _parsed(value, param)
    if not isinstance(found, dict):
        raise RequestError(f"should be an object, got {shown(value)}", param=param)
    return found


def _parsed(value: Any, param: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"is no JSON: {error}, got {shown(value)}", param=param) from error
