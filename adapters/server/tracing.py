"""Traces by OpenTelemetry: a span for each request, beneath the one that the client names in ``traceparent``."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

import chatplan

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from chatplan.adapters.server.record import Record

__all__ = ["trace_requests"]

_PROBES = "/health,/live,/version,/metrics,/docs,/openapi.json"


def trace_requests(app: FastAPI, provider: TracerProvider | None = None) -> None:
    """Make a span of each request. Without a ``provider``, spans go where the ``OTEL_*`` variables say, by HTTP.

    Raises:
        ValueError: the packages of the extra ``otel`` are not installed.
    """
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.instrumentation") is None:
        raise ValueError("otel: OpenTelemetry is not installed; `pip install chatplan[otel]` brings it")
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider or _provider(),
        excluded_urls=_PROBES,
        exclude_spans=["receive", "send"],  # there is one of each for every event of a stream
    )
    app.state.service.annotate = _annotate


def _provider() -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = {"service.name": "chatplan", "service.version": chatplan.__version__}
    provider = TracerProvider(resource=Resource(about).merge(Resource.create()))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _annotate(record: Record) -> None:
    """The names are those of OpenTelemetry's conventions for generative AI; nothing that people wrote is among them."""
    from opentelemetry.trace import get_current_span

    span = get_current_span()
    if not span.is_recording():
        return
    span.set_attributes({name: value for name, value in _attributes(record).items() if value is not None})


def _attributes(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {"chatplan.request_id": record.request_id, "error.type": record.code}
    request = record.request
    if request is None:
        return found
    return found | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "chatplan",
        "gen_ai.request.model": record.model,
        "gen_ai.request.choice.count": request.n,
        "gen_ai.request.max_tokens": request.max_new_tokens_limit,
        "gen_ai.request.seed": request.seed,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.response.id": f"chatcmpl-{record.request_id}",
        "gen_ai.response.model": record.model,
        "gen_ai.usage.input_tokens": record.prompt_tokens,
        "gen_ai.usage.output_tokens": record.completion_tokens,
        "chatplan.time_to_first_token": record.ttft,
    }
