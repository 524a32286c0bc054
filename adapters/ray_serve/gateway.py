"""What stands before the replicas: it keeps each request until an answer has begun, so that a replica may die."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import Response

from chatplan.adapters.ray_serve.call import Call
from chatplan.adapters.ray_serve.fleet import fleet_metrics
from chatplan.adapters.ray_serve.relay import Relay
from chatplan.adapters.ray_serve.routing import prefix_of
from chatplan.adapters.ray_serve.settings import RaySettings

__all__ = ["Gateway"]

_PROBES = ("/health", "/live")
_PROBE_SECONDS = 5.0
_ID = b"x-request-id"


class Gateway:
    """The ingress of the application. It has no model and checks nothing: replicas do."""

    def __init__(self, replicas: DeploymentHandle[Any], settings: RaySettings) -> None:
        self._replicas, self._settings = replicas, settings
        self._calls = replicas.options(method_name="answer", stream=True)

    async def __call__(self, request: Request) -> Response:
        """The answer of a replica; Ray sends it, and cancels it when the client is gone."""
        call = await self._call(request)
        if call.path == "/metrics":
            return await fleet_metrics(self._replicas, call)
        seconds = _PROBE_SECONDS if call.path in _PROBES else self._settings.queue_seconds
        return Relay(self._calls, call, self._settings.retries, min(seconds, self._settings.queue_seconds))

    async def _call(self, request: Request) -> Call:
        body = await _read(request, self._settings.max_body_bytes)
        prefix = ""
        if self._settings.routing == "prefix" and request.method == "POST":
            prefix = prefix_of(body, self._settings.prefix_chars)
        headers = request.scope["headers"]
        if _names_itself(body):  # Ray's proxy gives each request an id, which would differ
            headers = [header for header in headers if header[0] != _ID]
        return Call.of(request.scope, list(headers), body, prefix)


async def _read(request: Request, limit: int) -> bytes:
    """The body; of one that is too long, enough for a replica to refuse it."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            break
    return bytes(body[: limit + 1])


def _names_itself(body: bytes) -> bool:
    if b'"request_id"' not in body:
        return False
    try:
        data = from_json(body)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("request_id") is not None
