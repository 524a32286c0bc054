"""The metrics of all replicas in one text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.responses import Response
from starlette.types import Message

from chatplan.adapters.ray_serve.call import Call

__all__ = ["fleet_metrics", "merged"]

_SECONDS = 10.0


async def fleet_metrics(replicas: DeploymentHandle[Any], call: Call) -> Response:
    """Those of all replicas that answer, each sample with the label ``replica``; or a refusal, as a replica says it."""
    try:
        response = replicas.broadcast("whole", call)
        found = await response.results_async(timeout_s=_SECONDS, return_exceptions=True)
    except (DeploymentUnavailableError, asyncio.TimeoutError, TimeoutError):
        found = []
    texts: dict[str, str] = {}
    for each in found:
        if isinstance(each, BaseException):
            continue  # it is dying
        name, messages = each
        answer = _response(messages)
        if answer.status_code != 200:
            return answer
        texts[name] = bytes(answer.body).decode()
    return Response(merged(texts), headers={"Content-Type": CONTENT_TYPE_LATEST})


def merged(texts: dict[str, str]) -> bytes:
    """Texts in Prometheus' format as one, where each sample has the name of its text as ``replica``."""
    families: dict[str, Metric] = {}
    for name, text in texts.items():
        for family in text_string_to_metric_families(text):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            whole.samples += [sample._replace(labels={**sample.labels, "replica": name}) for sample in family.samples]
    registry = CollectorRegistry()
    registry.register(_Families(families.values()))
    return generate_latest(registry)


class _Families:
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _response(messages: list[Message]) -> Response:
    body = b"".join(message.get("body", b"") for message in messages)
    response = Response(body, messages[0]["status"])
    response.raw_headers = [header for header in messages[0]["headers"] if header[0].lower() != b"x-request-id"]
    return response
