"""From a request to the body that a server gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError

from chatplan.adapters.remote.rules import Refused
from chatplan.adapters.remote.tables import Table
from chatplan.errors import RequestError, UnsupportedFieldError
from chatplan.request import ChatCompletionRequest
from chatplan.request_rules import shown

__all__ = ["body_of"]


def body_of(request: ChatCompletionRequest, table: Table, model: str) -> dict[str, Any]:
    """The JSON object to send: the fields that the request sets, as the server knows them, and nothing else.

    Raises:
        UnsupportedFieldError: the server cannot honour a field, or this value of it.
    """
    body: dict[str, Any] = {"model": model}
    given = request.given()
    for name, value in _set(request).items():
        if name in table.rules:
            _merge(body, _sent(name, value, request, table))
        elif name in given:
            _plugin_field(name, value, table)
            body[name] = value
    _agree(body, request)
    return body


def _set(request: ChatCompletionRequest) -> dict[str, Any]:
    """What was set, as JSON has it; also to the default, since the server's own may be another."""
    try:
        data = request.model_dump(mode="json", by_alias=True, exclude_unset=True, warnings=False)
    except PydanticSerializationError as error:
        raise RequestError(f"the request is no JSON: {error}") from None
    return {name: value for name, value in data.items() if value is not None}


def _sent(name: str, value: Any, request: ChatCompletionRequest, table: Table) -> Mapping[str, Any]:
    try:
        return table.rules[name](name, value, request)
    except Refused as reason:
        raise UnsupportedFieldError(name, f"{table.server} cannot honour it: {reason}, got {shown(value)}") from None


def _plugin_field(name: str, value: Any, table: Table) -> None:
    if not table.plugin_fields:
        reason = table.unsupported.get(name, f"{table.server} has no such field; only chatplan servers have plugins")
        raise UnsupportedFieldError(name, f"{reason}, got {shown(value)}")


def _merge(body: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        both = isinstance(body.get(key), dict) and isinstance(value, dict)
        body[key] = {**body[key], **value} if both else value


def _agree(body: dict[str, Any], request: ChatCompletionRequest) -> None:
    """What holds between fields, so that servers need not agree with us on which of two wins, or on a default."""
    if request.max_completion_tokens is not None and "max_completion_tokens" in body:
        body.pop("max_tokens", None)
    if not request.tools or request.tool_choice == "none":
        for name in ("tools", "tool_choice", "parallel_tool_calls"):
            body.pop(name, None)
    calls = [call for message in body.get("messages", ()) for call in message.get("tool_calls") or ()]
    for item in (*body.get("tools", ()), *calls):
        item.setdefault("type", "function")
    if isinstance(body.get("tool_choice"), dict):
        body["tool_choice"].setdefault("type", "function")
    if request.stream:
        body["stream"] = True
        body["stream_options"] = {**body.get("stream_options", {}), "include_usage": True}
    else:
        body.pop("stream_options", None)
