"""Whether the server lives and can answer, what it serves, and what it counts."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

import chatplan
from chatplan.adapters.server.gate import admit_to_metrics, service_of
from chatplan.adapters.server.openapi import ERRORS
from chatplan.adapters.server.service import Service
from chatplan.errors import ModelNotFoundError

__all__ = ["models", "router"]

router: APIRouter = APIRouter(tags=["server"])
models: APIRouter = APIRouter(tags=["models"])


class State(BaseModel):
    """A good state; a bad one is an error."""

    status: Literal["ok"] = "ok"


class Version(BaseModel):
    """The version of chatplan."""

    version: str


class ModelCard(BaseModel):
    """The served model under one of its names. ``created`` is when the server started, in seconds since 1970."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "chatplan"
    root: str
    parent: None = None
    max_model_len: int | None


class ModelList(BaseModel):
    """The served model, once for each of its names."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


@router.get("/health", summary="Can it answer?", responses={503: ERRORS[503]})
async def health(http: Request) -> State:
    """200 when requests can be answered; 503 while the model loads, while shutting down, and when the engine died."""
    service_of(http).check_health()
    return State()


@router.get("/live", summary="Is it alive?")
async def live() -> State:
    """200 as long as the process answers."""
    return State()


@router.get("/version", summary="Its version")
async def version() -> Version:
    """The version of chatplan."""
    return Version(version=chatplan.__version__)


@router.get(
    "/metrics", summary="Prometheus metrics", dependencies=[Depends(admit_to_metrics)], response_class=PlainTextResponse
)
async def metrics(http: Request) -> Response:
    """Counters, gauges and histograms in Prometheus' text format."""
    text, kind = service_of(http).metrics.text()
    return Response(text, headers={"Content-Type": kind})


@models.get("/v1/models", operation_id="list_models", summary="List the models")
async def list_models(http: Request) -> ModelList:
    """The served model, under each of its names."""
    service = service_of(http)
    return ModelList(data=[_model(service, name) for name in service.names()])


@models.get("/v1/models/{model:path}", operation_id="retrieve_model", summary="One model")
async def retrieve_model(http: Request, model: str) -> ModelCard:
    """The served model, if ``model`` is one of its names."""
    service = service_of(http)
    if model not in (*service.names(), *service.chat.model.names):
        raise ModelNotFoundError(f"the model {model!r} does not exist", param="model")
    return _model(service, model)


def _model(service: Service, name: str) -> ModelCard:
    model = service.chat.model
    return ModelCard(id=name, created=service.created, root=model.name, max_model_len=model.context_length)
