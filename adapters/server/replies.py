"""Errors as HTTP answers: one shape for all of them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from chatplan.errors import (
    AuthenticationError,
    ChatplanError,
    EngineError,
    PermissionDeniedError,
    PluginError,
    RateLimitError,
    RequestError,
)

__all__ = ["HttpError", "UnexpectedError", "error_body", "error_response", "json_response", "status_of"]


_STEP = re.compile(r"[^.\[\]]+")


class HttpError(ChatplanError):
    """What the protocol itself refuses: no such path, no such method, another content type."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, code=HTTPStatus(status).phrase.lower().replace(" ", "_"))
        self.http_status = status
        self.headers: dict[str, str] = dict(headers or {})

    def to_dict(self) -> dict[str, Any]:
        body = super().to_dict()
        body["error"]["type"] = "NotFoundError" if self.http_status == 404 else "BadRequestError"
        return body


class UnexpectedError(ChatplanError):
    """Stands for an exception that nobody foresaw."""

    def __init__(self) -> None:
        super().__init__("the server failed")


def status_of(error: ChatplanError) -> int:
    """The HTTP status of an error."""
    return error.http_status if isinstance(error, HttpError) else error.status


def error_body(error: ChatplanError) -> dict[str, Any]:
    """The error object; what went wrong inside the server is for its log alone."""
    body = error.to_dict()
    if status_of(error) == 500:
        what = {EngineError: "the model failed", PluginError: "a plugin is wrong"}.get(type(error), "the server failed")
        body["error"]["message"] = f"{what}; the server's log has the reason under this request's id"
    return body


def error_response(error: ChatplanError, validation_status: int = 400) -> Response:
    """The answer to a request that is refused, or failed before its answer began."""
    if isinstance(error, RequestError) and error.status == 400 and validation_status == 422:
        return json_response(_detail(error), 422)
    return json_response(error_body(error), status_of(error), _headers(error))


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """``body`` as compact JSON."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, headers, "application/json")


def _headers(error: ChatplanError) -> dict[str, str]:
    if isinstance(error, RateLimitError):
        return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}
    if isinstance(error, (AuthenticationError, PermissionDeniedError)):
        from chatplan.adapters.auth import challenge

        return {"WWW-Authenticate": challenge(error)}
    return error.headers if isinstance(error, HttpError) else {}


def _detail(error: RequestError) -> dict[str, Any]:
    """The error as FastAPI writes those of a body: ``messages[0].content`` is a list of steps."""
    steps: list[str | int] = [int(step) if step.isdigit() else step for step in _STEP.findall(error.param or "")]
    return {"detail": [{"loc": ["body", *steps], "msg": error.message, "type": error.code}]}
