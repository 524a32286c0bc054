"""The JSON schema of the request that this server takes, for pages and programs that make requests."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from chatplan.adapters.server.gate import record_of, service_of
from chatplan.adapters.server.replies import json_response
from chatplan.chat import Chat
from chatplan.fields import GROUPS, request_schema

__all__ = ["router", "served_schema"]

router: APIRouter = APIRouter(tags=["chat"])


@router.get(
    "/v1/chat/completions/schema",
    operation_id="chat_completion_schema",
    summary="The fields of a request",
    responses={200: {"model": dict[str, Any], "description": "A JSON schema."}},
)
async def schema(http: Request) -> Response:
    """The JSON schema of a request, with plugins' fields, and with the defaults that hold here."""
    service = service_of(http)
    with service.counted(record_of(http).principal):
        return json_response(served_schema(service.chat))


def served_schema(chat: Chat) -> dict[str, Any]:
    """The request's schema as ``chat`` takes it.

    Properties stand in the order of their groups, as :func:`chatplan.fields.annotate_schema` leaves them. ``default``
    is the served one; ``x-refused-here`` is why the engine, named by ``x-engine``, refuses the field.
    """
    found = request_schema(chat.plugins)
    found["x-engine"] = chat.engine.name
    known = {name: found["properties"][name] for names in GROUPS.values() for name in names}
    found["properties"] = {**known, **found["properties"]}
    for name, prop in found["properties"].items():
        if name in chat.defaults:
            prop["default"] = chat.defaults[name]
        if name in chat.engine.unsupported:
            prop["x-refused-here"] = chat.engine.unsupported[name]
    return found
