"""The OpenAPI document: complete for every field, those of plugins included."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from pydantic.json_schema import models_json_schema

from chatplan.fields import annotate_schema
from chatplan.request import ChatCompletionRequest
from chatplan.response import ChatCompletionChunk

if TYPE_CHECKING:
    from chatplan.adapters.server.service import Service

__all__ = ["ERRORS", "STREAMED", "body_of", "describe"]

_REFS = "#/components/schemas/{model}"
_ABOUT = """Chat completions with any Transformers language model, in the shapes of OpenAI and vLLM.

A field that cannot be honoured is refused by name, never ignored. An answer has the header `X-Request-Id`, which a
request may set."""
_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An access token, or an API key."},
    "api_key": {"type": "apiKey", "in": "header", "name": "x-api-key", "description": "An API key."},
    "token": {"type": "apiKey", "in": "header", "name": "token", "description": "A JSON web token."},
}
_REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "The request's id, as the body's request_id; the answer has it, too.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200, "pattern": "^[ -~]+$"},
}


class ErrorInfo(BaseModel):
    """What is wrong."""

    message: str = Field(description="In words.")
    type: str = Field(description="The kind of error, as vLLM calls it.")
    param: str | None = Field(description="The field, as a path such as messages[0].content.")
    code: str | None = Field(description="A stable word for programs.")


class ErrorBody(BaseModel):
    """Every error's body. In a stream it is the event before the last."""

    error: ErrorInfo


class InvalidPlace(BaseModel):
    """One thing that is wrong with a body."""

    loc: list[str | int]
    msg: str
    type: str


class InvalidBody(BaseModel):
    """A body that is not valid, when the setting validation_status is 422."""

    detail: list[InvalidPlace]


_KINDS = {
    400: "A field cannot be honoured, or the body is no JSON.",
    401: "No credential, or one that is not valid.",
    403: "The credential does not allow this.",
    404: "There is no such model.",
    413: "The body is too long.",
    415: "The body is not said to be JSON.",
    429: "Too much for this credential; see Retry-After.",
    500: "The server failed.",
    503: "The server takes no more, is loading, or is shutting down; see Retry-After.",
    504: "The answer took too long.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    **{status: {"model": ErrorBody, "description": text} for status, text in _KINDS.items()},
    422: {"model": InvalidBody, "description": "As 400, when the server is set so."},
}
"""The error answers of every route of the API."""

STREAMED: dict[str, Any] = {
    "text/event-stream": {
        "schema": {"$ref": _REFS.format(model="ChatCompletionChunk")},
        "example": 'data: {"id": "chatcmpl-1", "object": "chat.completion.chunk", …}\n\ndata: [DONE]\n\n',
    }
}
"""With ``stream``: events, each with a chunk as its data; the last one's data is ``[DONE]``."""


def body_of(name: str) -> dict[str, Any]:
    """What documents a JSON body of the schema ``name``, which the route reads by itself."""
    content = {"application/json": {"schema": {"$ref": _REFS.format(model=name)}}}
    return {"requestBody": {"required": True, "content": content}, "parameters": [_REQUEST_ID]}


def describe(app: FastAPI, bodies: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The document; made anew until the model, and with it the plugins, is there."""
    service: Service = app.state.service
    if app.openapi_schema is not None:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
    request = service.request_type or ChatCompletionRequest
    parts = found["components"]
    parts["schemas"].update(_schemas([request, ChatCompletionChunk, *bodies]))
    parts["schemas"][request.__name__]["additionalProperties"] = False
    parts["securitySchemes"] = _SCHEMES
    _secure(found, service)
    if service.request_type is not None:
        annotate_schema(parts["schemas"][request.__name__], service.chat.plugins)
        app.openapi_schema = found
    return found


def _schemas(models: list[type[BaseModel]]) -> dict[str, Any]:
    _, found = models_json_schema([(model, "validation") for model in models], ref_template=_REFS)
    schemas: dict[str, Any] = found["$defs"]
    return schemas


def _secure(document: dict[str, Any], service: Service) -> None:
    """Any one of the credentials will do; none as well, where nobody is asked."""
    anyone: list[dict[str, Any]] = [{name: []} for name in _SCHEMES]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            if "401" in operation["responses"] or (path == "/metrics" and service.settings.metrics_auth):
                operation["security"] = anyone if service.asks else [{}, *anyone]
