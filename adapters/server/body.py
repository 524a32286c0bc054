"""The body of a request: read up to a limit, as one JSON object."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json
from starlette.requests import ClientDisconnect, Request

from chatplan.adapters.server.disconnects import ClientGone
from chatplan.adapters.server.replies import HttpError
from chatplan.errors import RequestError, TooLargeError

__all__ = ["read_object"]


async def read_object(request: Request, limit: int) -> dict[str, Any]:
    """The JSON object in the body, of ``limit`` bytes at most.

    Raises:
        HttpError: 415, the content type is not JSON.
        TooLargeError: the body is longer, whatever Content-Length says.
        RequestError: it is not JSON, or not an object.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise HttpError(415, f"the content type must be application/json, got {kind or 'none'}")
    body = await _read(request, limit)
    try:
        data = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(f"the body is not JSON: {error}", code="invalid_json") from None
    if not isinstance(data, dict):
        raise RequestError(f"the body must be a JSON object, got {type(data).__name__}", code="invalid_json")
    return data


async def _read(request: Request, limit: int) -> bytes:
    stated = request.headers.get("content-length", "")
    if stated.isdigit() and int(stated) > limit:
        raise _too_large(limit)
    body = bytearray()
    try:
        async for part in request.stream():
            body += part
            if len(body) > limit:
                raise _too_large(limit)
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(body)


def _too_large(limit: int) -> TooLargeError:
    return TooLargeError(f"the body is longer than max_body_bytes={limit}")
