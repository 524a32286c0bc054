"""What the server tells of its requests: metrics, log lines and traces, and what these must not hold."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from chatplan import Chat
from chatplan.adapters.server import ServerSettings, create_app
from chatplan.adapters.server.logs import configure
from chatplan.adapters.server.tracing import trace_requests

Ask = Callable[..., httpx.Response]
Written = Callable[[], str]
SECRET = "xyzzy-plugh"
ASK_SECRET: dict[str, Any] = {"messages": [{"role": "user", "content": SECRET}]}


# --- metrics ----------------------------------------------------------------------------------------------------------


def values(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    families = text_string_to_metric_families(answer.text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


MODEL = (("model", "tests/tiny"),)


def requests(status: str, code: str = "") -> Any:
    labels = {"code": code, "model": "tests/tiny", "path": "/v1/chat/completions", "status": status}
    return "chatplan_requests_total", tuple(sorted(labels.items()))


def test_metrics_move(serve: Any, new_chat: Any, ask: Ask) -> None:
    with serve(new_chat()) as server, httpx.Client(base_url=server.url) as client:
        before = values(client)
        for stream in (False, True):
            assert ask(client, stream=stream).status_code == 200
        assert ask(client, guided_regex="(", ignore_eos=None).status_code == 400
        server.wait_idle()
        after = values(client)
    assert requests("200") not in before
    assert (after[requests("200")], after[requests("400", "invalid_value")]) == (2, 1)
    assert after["chatplan_completion_tokens_total", MODEL] == 8
    assert after["chatplan_prompt_tokens_total", MODEL] > 8
    for name in ("time_to_first_token", "request"):
        assert after[f"chatplan_{name}_seconds_count", MODEL] == 2
        assert after[f"chatplan_{name}_seconds_sum", MODEL] > 0
    assert 0 < after["chatplan_inter_token_seconds_count", MODEL] <= 6
    for gauge in ("requests_waiting", "requests_running", "engine_rows_waiting", "engine_rows_running"):
        assert after[f"chatplan_{gauge}", ()] == 0
    assert after["chatplan_cache_usage_ratio", ()] == 0


def test_gauges_show_what_is_under_way(tiny_server: Any, http: httpx.Client) -> None:
    body = {**ASK_SECRET, "stream": True, "slow": 0.01, "max_tokens": 500, "ignore_eos": True}
    with http.stream("POST", "/v1/chat/completions", json=body) as stream:
        assert stream.status_code == 200
        assert values(http)["chatplan_requests_running", ()] == 1
    tiny_server.wait_idle()
    assert values(http)["chatplan_requests_running", ()] == 0


def test_labels_come_from_nobodys_request(http: httpx.Client, ask: Ask) -> None:
    for number in range(3):
        http.get(f"/made/up/{number}")
        ask(http, model=f"made-up-{number}")
        http.get(f"/v1/models/made-up-{number}")
    text = http.get("/metrics").text
    assert "made" not in text
    assert 'path="/v1/models/{model:path}"' in text


def test_the_page_lists_every_metric(http: httpx.Client) -> None:
    page = (Path(__file__).parents[3] / "docs" / "server.md").read_text("utf-8")
    families = {family.name for family in text_string_to_metric_families(http.get("/metrics").text)}
    for name in {family.removesuffix("_created") for family in families}:
        assert f"`{name}`" in page or f"`{name}_total`" in page


def test_each_app_counts_for_itself(slow_chat: Chat) -> None:
    apps = [create_app(slow_chat, ServerSettings()) for _ in range(2)]
    assert apps[0].state.service.metrics.registry is not apps[1].state.service.metrics.registry


# --- logs -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Written]]:
    """``log(**settings)`` sets logging up; what that returns reads all that was written since."""
    root = logging.getLogger()
    level = root.level
    monkeypatch.setattr(root, "handlers", [])

    def start(**settings: Any) -> Written:
        configure(ServerSettings(**settings))
        return lambda: capsys.readouterr().err

    yield start
    root.setLevel(level)


def lines(text: str, logger: str = "chatplan.access") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if line["logger"] == logger]


def test_one_line_for_each_request(serve: Any, slow_chat: Chat, ask: Ask, log: Any) -> None:
    written = log()
    with serve(slow_chat) as server, httpx.Client(base_url=server.url) as client:
        ask(client, stream=True, headers={"X-Request-Id": "log-1"})
        ask(client, temperature=-1)
        ask(client, fail=True)
        client.get("/health")
    text = written()
    streamed, bad, failed = lines(text)
    assert streamed["message"] == "POST /v1/chat/completions 200"
    assert {"time", "level", "ttft", "duration", "prompt_tokens"} < set(streamed)
    assert (streamed["request_id"], streamed["model"], streamed["completion_tokens"], streamed["stream"]) == (
        "log-1", "tests/tiny", 4, True)  # fmt: skip
    assert (bad["status"], bad["error"], bad["param"]) == (400, "invalid_value", "temperature")
    assert (failed["status"], failed["error"]) == (500, "engine_error")
    (cause,) = lines(text, "chatplan.server")
    assert "a secret of the inside" in cause["exc_info"]
    assert cause["request_id"] == failed["request_id"]


@pytest.mark.parametrize("form", ["json", "plain"])
def test_no_content_and_no_credential_is_logged(serve: Any, slow_chat: Chat, ask: Ask, log: Any, form: str) -> None:
    written = log(log_level="debug", log_format=form)
    secret = {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "token": SECRET}
    with serve(slow_chat) as server, httpx.Client(base_url=server.url) as client:
        for stream in (False, True):
            answer = ask(client, headers=secret, stream=stream, echo=True, add_generation_prompt=False, **ASK_SECRET)
            assert SECRET in answer.text
            ask(client, **ASK_SECRET, stop=[SECRET], **{SECRET: SECRET}, stream=stream)
            ask(client, **ASK_SECRET, model=SECRET, stream=stream)
            ask(client, **ASK_SECRET, chat_template="{{ raise_exception(messages[0].content) }}")
        client.post("/tokenize", json={"prompt": SECRET})
        client.post("/v1/chat/completions", content=SECRET, headers={"Content-Type": "application/json"})
    text = written()
    assert "POST /v1/chat/completions 200" in text
    assert SECRET not in text


def test_content_is_logged_when_asked_for(serve: Any, slow_chat: Chat, ask: Ask, log: Any) -> None:
    written = log()
    with serve(slow_chat, log_content=True) as server, httpx.Client(base_url=server.url) as client:
        whole = ask(client, **ASK_SECRET).json()
        ask(client, **ASK_SECRET, stream=True)
    found = lines(written(), "chatplan.content")
    assert [line["content"]["request"]["messages"] for line in found] == [ASK_SECRET["messages"]] * 2
    texts = [line["content"]["choices"][0]["message"]["content"] for line in found]
    assert texts == [whole["choices"][0]["message"]["content"]] * 2


# --- traces -----------------------------------------------------------------------------------------------------------


def test_a_span_for_each_request(serve: Any, slow_chat: Chat, ask: Ask) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    with serve(slow_chat, prepare=lambda app: trace_requests(app, provider)) as server:
        client = httpx.Client(base_url=server.url)
        ask(client, headers={"traceparent": parent}, stream=True, seed=3)
        ask(client, n=-1)
        client.get("/health")
    streamed, bad = exporter.get_finished_spans()
    assert streamed.context is not None
    assert streamed.parent is not None
    assert f"{streamed.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{streamed.parent.span_id:016x}" == "b7ad6b7169203331"
    attributes = dict(streamed.attributes or {})
    assert attributes["gen_ai.operation.name"] == "chat"
    assert attributes["gen_ai.request.model"] == "tests/tiny"
    assert attributes["gen_ai.request.seed"] == 3
    assert attributes["gen_ai.usage.output_tokens"] == 4
    assert (bad.attributes or {})["error.type"] == "invalid_value"


def test_tracing_needs_its_packages(monkeypatch: pytest.MonkeyPatch, slow_chat: Chat) -> None:
    monkeypatch.setattr("chatplan.adapters.server.tracing.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install chatplan\[otel\]"):
        create_app(slow_chat, ServerSettings(otel=True))
