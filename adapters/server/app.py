"""The ASGI app of one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

import chatplan
from chatplan.adapters.playground import pages
from chatplan.adapters.server import completions, probes, schema, tokens
from chatplan.adapters.server.disconnects import ClientGone
from chatplan.adapters.server.gate import Gate, admit, record_of, service_of
from chatplan.adapters.server.openapi import ERRORS, describe
from chatplan.adapters.server.replies import HttpError, error_response
from chatplan.adapters.server.service import Service
from chatplan.adapters.server.settings import ServerSettings
from chatplan.chat import Chat
from chatplan.errors import ChatplanError

__all__ = ["create_app"]

_CLIENT_CLOSED = 499  # as nginx says it; nobody reads it but logs and metrics


def create_app(chat: Chat | Callable[[], Chat], settings: ServerSettings | None = None) -> FastAPI:
    """An ASGI app that answers with ``chat``.

    Args:
        chat: a chat, or a callable that makes one. It is called in a thread when the app starts; until it returns,
            /health and all requests are answered 503.
        settings: without them, the defaults and what the environment says.

    Raises:
        ValueError: ``otel`` is set, and its packages are not installed.
    """
    settings = settings or ServerSettings()
    service = Service(chat, settings)
    app = FastAPI(
        title="chatplan",
        version=chatplan.__version__,
        root_path=settings.root_path,
        lifespan=_lifespan,
        middleware=_middleware(service),
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(probes.router)
    for part in (completions.router, schema.router, tokens.router, probes.models):
        app.include_router(part, dependencies=[Depends(admit)], responses=ERRORS)
    if settings.playground:
        app.include_router(pages.router)
    app.add_exception_handler(ChatplanError, _refused)
    app.add_exception_handler(HTTPException, _not_served)
    app.add_exception_handler(ClientGone, _gone)
    app.openapi = lambda: describe(app, [tokens.Tokenize, tokens.Detokenize])  # type: ignore[method-assign]
    if settings.otel:
        from chatplan.adapters.server.tracing import trace_requests

        trace_requests(app)
    return app


def _middleware(service: Service) -> list[Middleware]:
    found = [Middleware(Gate, service=service)]
    if service.settings.cors_origins:
        found.append(
            Middleware(
                CORSMiddleware,
                allow_origins=service.settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["X-Request-Id", "Retry-After"],
            )
        )
    return found


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    loading = asyncio.create_task(service.load())
    yield
    service.drain()
    service.abort_all()
    loading.cancel()
    service.close()


async def _refused(http: Request, error: Exception) -> Response:
    assert isinstance(error, ChatplanError)
    record, service = record_of(http), service_of(http)
    service.report(error, record)
    return error_response(error, service.settings.validation_status)


async def _not_served(http: Request, error: Exception) -> Response:
    """What the routing refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    what = {404: f"there is no {http.url.path}", 405: f"{http.method} is not for {http.url.path}"}
    return await _refused(http, HttpError(error.status_code, what.get(error.status_code, error.detail), error.headers))


async def _gone(http: Request, error: Exception) -> Response:
    record_of(http).disconnected = True
    return Response(status_code=_CLIENT_CLOSED)
