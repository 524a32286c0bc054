"""What every request goes through: its id, its log line, its metrics, and the question who sends it."""

from __future__ import annotations

import uuid
from ipaddress import ip_address

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatplan.adapters.server.record import Record, checked_id
from chatplan.adapters.server.replies import UnexpectedError, error_response
from chatplan.adapters.server.service import Service
from chatplan.errors import ChatplanError, RequestError

__all__ = ["Gate", "admit", "admit_to_metrics", "record_of", "service_of"]


def service_of(http: Request) -> Service:
    """The service behind the app."""
    service: Service = http.app.state.service
    return service


def record_of(http: Request) -> Record:
    """What is known of this request."""
    record: Record = http.scope["record"]
    return record


async def admit(http: Request) -> None:
    """A dependency of the routes of the API: the server takes requests, and the sender may ask.

    Raises:
        OverloadedError: the model is not loaded, or the server is shutting down.
        AuthenticationError: no credential, or none that is valid.
    """
    service, record = service_of(http), record_of(http)
    service.check_health()
    service.accepted.add(record)
    record.principal = await service.identify(_lowered(http.headers), _is_local(http.scope))


async def admit_to_metrics(http: Request) -> None:
    """The same for /metrics, where that is wanted."""
    service = service_of(http)
    if service.settings.metrics_auth:
        record_of(http).principal = await service.identify(_lowered(http.headers), _is_local(http.scope))


def _lowered(headers: Headers) -> dict[str, str]:
    """One value for each name; a name that comes twice has both, as HTTP says, and so is no valid credential."""
    return {name: ", ".join(headers.getlist(name)) for name in headers}


def _is_local(scope: Scope) -> bool:
    """Whether the connection came to a loopback address, or to a Unix socket."""
    host, port = scope.get("server") or ("", 0)
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return port is None or host == "localhost"


class Gate:
    """The outermost ASGI middleware: no request leaves without an id, a log line, and an answer."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app: ASGIApp = app
        self.service: Service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        record = Record(uuid.uuid4().hex, scope["method"], scope["path"])
        scope["record"] = record

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = record.request_id
            elif not message.get("more_body"):
                self.service.annotate(record)  # now, since the span ends with the body
            await send(message)

        try:
            self._take_id(record, Headers(scope=scope))
            await self.app(scope, receive, tell)
        except RequestError as error:
            await self._refuse(error, record, scope, receive, tell)
        except Exception as cause:
            unexpected = UnexpectedError()
            unexpected.__cause__ = cause
            await self._refuse(unexpected, record, scope, receive, tell)
        finally:
            self.service.accepted.discard(record)
            self.service.finish(record, getattr(scope.get("route"), "path", "other"))

    def _take_id(self, record: Record, headers: Headers) -> None:
        given = headers.get("x-request-id")
        if given is not None:
            record.request_id, record.id_given = checked_id(given, "X-Request-Id"), True

    async def _refuse(self, error: ChatplanError, record: Record, scope: Scope, receive: Receive, send: Send) -> None:
        self.service.report(error, record)
        if not record.status:  # else the answer has begun, and can only break off
            await error_response(error, self.service.settings.validation_status)(scope, receive, send)
