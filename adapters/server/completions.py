"""``/v1/chat/completions``, and what its plan would be."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from chatplan.adapters.server.answers import EventStream, PlanStream, whole
from chatplan.adapters.server.body import read_object
from chatplan.adapters.server.disconnects import unless_gone
from chatplan.adapters.server.gate import record_of, service_of
from chatplan.adapters.server.limits import check_plan
from chatplan.adapters.server.openapi import STREAMED, body_of
from chatplan.adapters.server.record import Record, checked_id
from chatplan.adapters.server.replies import json_response
from chatplan.adapters.server.service import Service
from chatplan.errors import RequestError
from chatplan.plan import GenerationPlan
from chatplan.request import ChatCompletionRequest
from chatplan.response import ChatCompletion

__all__ = ["router"]

router: APIRouter = APIRouter(tags=["chat"])


@router.post(
    "/v1/chat/completions",
    operation_id="create_chat_completion",
    summary="Answer a conversation",
    openapi_extra=body_of("ChatCompletionRequest"),
    responses={200: {"model": ChatCompletion, "content": STREAMED, "description": "The answer."}},
)
async def create(http: Request) -> Response:
    """The whole answer as JSON; with ``stream`` as server-sent events, each a chunk, the last one ``[DONE]``."""
    service, record = service_of(http), record_of(http)
    request = await read_request(http, service, record)
    with ExitStack() as stack:
        patience = stack.enter_context(service.entered(record, request))
        if not request.stream:
            answer = await unless_gone(http, _whole(service, request, record, patience))
            return Response(answer, media_type="application/json")
        stream = await unless_gone(http, _begun(service, request, record, patience, stack))
        return EventStream(stream, record, stack.pop_all())


@router.post(
    "/v1/chat/completions/explain",
    operation_id="explain_chat_completion",
    summary="Explain a request",
    openapi_extra=body_of("ChatCompletionRequest"),
    responses={200: {"model": dict[str, Any], "description": "The explanation."}},
)
async def explain(http: Request) -> Response:
    """Which plugin turned which field of the request into what; nothing is generated."""
    service, record = service_of(http), record_of(http)
    request = await read_request(http, service, record)
    with service.entered(record, request):
        explanation = await unless_gone(http, service.in_thread(lambda: service.chat.explain(request)))
    return json_response(explanation.to_dict())


async def read_request(http: Request, service: Service, record: Record) -> ChatCompletionRequest:
    """The valid request in the body, under one id with the header's."""
    data = await read_object(http, service.settings.max_body_bytes)
    if service.settings.log_content:
        record.content = {"request": data}
    name(record, data)
    return await service.in_thread(lambda: service.parse(data))


def name(record: Record, data: dict[str, Any]) -> None:
    """The header and the body name the same request; what neither names has the id that the server gave it."""
    given = data.get("request_id")
    if not isinstance(given, str):
        if given is None:
            data["request_id"] = record.request_id
        return  # of another type: refused with the other fields
    checked_id(given, "request_id")
    if record.id_given and given != record.request_id:
        raise RequestError(f"differs from the header X-Request-Id, {record.request_id!r}", param="request_id")
    record.request_id = given


async def _planned(service: Service, request: ChatCompletionRequest, record: Record) -> GenerationPlan:
    plan = await service.in_thread(lambda: service.chat.plan(request))
    check_plan(plan, service.settings)
    record.prompt_tokens, record.completion_tokens = len(plan.prompt.token_ids), 0
    service.spend(record, record.prompt_tokens)
    return plan


async def _whole(service: Service, request: ChatCompletionRequest, record: Record, patience: Any) -> str:
    plan = await patience.wait(lambda: _planned(service, request, record))
    answer = await whole(service, plan, record, patience)
    if service.settings.log_content:
        record.content["choices"] = answer.to_dict()["choices"]
    return answer.to_json()


async def _begun(
    service: Service, request: ChatCompletionRequest, record: Record, patience: Any, stack: ExitStack
) -> PlanStream:
    plan = await patience.wait(lambda: _planned(service, request, record))
    stream = PlanStream(service, plan, record, patience)
    stack.callback(stream.close)
    await stream.begin()
    return stream
