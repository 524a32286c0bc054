"""Prometheus metrics, in a registry for each app."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

if TYPE_CHECKING:
    from chatplan.adapters.server.record import Record
    from chatplan.engine import EngineStats

__all__ = ["Metrics"]

_STEP_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5)
_WAIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WHOLE_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600)


class Metrics:
    """What is counted. ``model`` is the served name, never what a request says."""

    def __init__(self) -> None:
        self.registry: CollectorRegistry = CollectorRegistry()
        self.requests: Counter = self._counter(
            "requests", "HTTP requests that are over.", "model", "path", "status", "code"
        )
        self.prompt_tokens: Counter = self._counter("prompt_tokens", "Tokens of prompts.", "model")
        self.completion_tokens: Counter = self._counter("completion_tokens", "Generated tokens.", "model")
        self.disconnects: Counter = self._counter(
            "disconnects", "Requests whose client left before the answer's end.", "model"
        )
        self.first_token: Histogram = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token.", _WAIT_SECONDS
        )
        self.inter_token: Histogram = self._histogram(
            "inter_token_seconds", "From one piece of an answer to the next.", _STEP_SECONDS
        )
        self.whole: Histogram = self._histogram(
            "request_seconds", "From a request to the end of its answer.", _WHOLE_SECONDS
        )

    def watch(self, waiting: Callable[[], int], running: Callable[[], int], engine: Callable[[], EngineStats]) -> None:
        """Read these whenever the metrics are read."""
        self._gauge("requests_waiting", "Accepted requests without a token yet.", waiting)
        self._gauge("requests_running", "Accepted requests that generate.", running)
        self._gauge("engine_rows_waiting", "Rows (choices) in the engine's queue.", lambda: engine().waiting)
        self._gauge("engine_rows_running", "Rows in the engine's batch.", lambda: engine().running)
        self._gauge("cache_usage_ratio", "Part of the engine's cache in use.", lambda: engine().cache_usage)

    def count(self, record: Record, path: str) -> None:
        """A request is over. It has a model when it was let in."""
        model = record.model or ""
        self.requests.labels(model, path, str(record.status), record.code or "").inc()
        if record.disconnected:
            self.disconnects.labels(model).inc()
        if record.prompt_tokens is None:
            return
        self.prompt_tokens.labels(model).inc(record.prompt_tokens)
        self.completion_tokens.labels(model).inc(record.completion_tokens or 0)
        self.whole.labels(model).observe(record.seconds)
        if record.ttft is not None:
            self.first_token.labels(model).observe(record.ttft)

    def text(self) -> tuple[bytes, str]:
        """The metrics in Prometheus' text format, and its media type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"chatplan_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"chatplan_{name}", text, ["model"], buckets=buckets, registry=self.registry)

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        Gauge(f"chatplan_{name}", text, registry=self.registry).set_function(value)
