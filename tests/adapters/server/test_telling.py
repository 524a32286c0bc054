"""What the server tells of its requests: metrics, log lines and traces, and what these must not hold."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families

from chatplan import Chat, Principal
from chatplan.adapters.server import ServerSettings, create_app
from chatplan.adapters.server.logs import configure, log_access
from chatplan.adapters.server.metrics import Metrics
from chatplan.adapters.server.record import Record, has_token
from chatplan.adapters.server.tracing import trace_requests
from chatplan.engine import EngineStats
from chatplan.response import ChatCompletionChunk

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
    with serve(new_chat()) as server, server.client() as client:
        before = values(client)
        assert ask(client).status_code == 200
        streamed = ask(client, stream=True)
        assert streamed.status_code == 200
        assert ask(client, guided_regex="(", ignore_eos=None).status_code == 400
        server.wait_idle()
        after = values(client)
    assert requests("200") not in before
    assert (after[requests("200")], after[requests("400", "invalid_value")]) == (2, 1)
    assert after["chatplan_completion_tokens_total", MODEL] == 8
    assert after["chatplan_prompt_tokens_total", MODEL] == 2 * 21
    assert after.get(("chatplan_disconnects_total", MODEL), 0) == 0
    for name in ("time_to_first_token", "request"):
        assert after[f"chatplan_{name}_seconds_count", MODEL] == 2
        assert after[f"chatplan_{name}_seconds_sum", MODEL] > 0
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    pieces = sum(has_token(ChatCompletionChunk.model_validate(event)) for event in events)
    assert pieces > 1
    assert after["chatplan_inter_token_seconds_count", MODEL] == 2 * (pieces - 1)
    for gauge in ("requests_waiting", "requests_running", "engine_rows_waiting", "engine_rows_running"):
        assert after[f"chatplan_{gauge}", ()] == 0
    assert after["chatplan_cache_usage_ratio", ()] == 0


def test_gauges_show_what_is_under_way(serve: Any, slow_chat: Chat, stream: Callable[..., Any]) -> None:
    """On this engine one call runs, and the others wait for their turn."""
    with serve(slow_chat, keep_alive_seconds=0.05) as server, server.client() as client:
        endless = {"slow": 0.05, "max_tokens": 900}
        with stream(client, **endless, n=2):
            server.wait_generating()
            with stream(client, **endless), stream(client, **endless):
                found = values(client)
                assert (found["chatplan_requests_running", ()], found["chatplan_requests_waiting", ()]) == (1, 2)
                assert found["chatplan_engine_rows_running", ()] == 2
        server.wait_idle()
        found = values(client)
        assert (found["chatplan_requests_running", ()], found["chatplan_requests_waiting", ()]) == (0, 0)


def chunk(choices: list[dict[str, Any]], **more: Any) -> ChatCompletionChunk:
    return ChatCompletionChunk.model_validate({"id": "1", "created": 1, "model": "m", "choices": choices, **more})


@pytest.mark.parametrize(
    ("choice", "token"),
    [
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {}}, False),
        ({"delta": {"content": "a"}}, True),
        ({"delta": {"reasoning_content": "a"}}, True),
        ({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}}, True),
        ({"delta": {}, "finish_reason": "stop"}, True),
        ({"delta": {}, "logprobs": {"content": []}}, True),
    ],
    ids=range(7),
)
def test_what_counts_as_a_token(choice: dict[str, Any], token: bool) -> None:
    nothing = {"index": 0, "delta": {}}
    assert has_token(chunk([{"index": 0, **choice}])) == token
    assert has_token(chunk([nothing, {"index": 1, **choice}])) == token  # of any choice
    assert not has_token(chunk([]))


def test_the_times_of_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    record = Record("r", "POST", "/", started=100.0)
    assert (record.ttft, record.seconds) == (None, 0)
    now = 101
    assert record.see(chunk([{"index": 0, "delta": {"role": "assistant", "content": ""}}])) is None
    assert record.first_token is None
    now = 103
    assert record.see(chunk([{"index": 0, "delta": {"content": "a"}}])) is None
    now = 107
    assert record.see(chunk([{"index": 0, "delta": {"content": "b"}}])) == 4
    assert record.see(chunk([])) is None
    now = 115
    assert record.see(chunk([{"index": 0, "delta": {"content": "c"}}])) == 8
    times: tuple[Any, ...] = (record.first_token, record.last_token, record.ttft, record.seconds)
    assert times == (103, 115, 3, 15)


def test_what_a_request_adds_to_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    def total(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"chatplan_{name}", {"model": "m", **labels})

    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    metrics = Metrics()
    record = Record("r", "POST", "/", started=100.0, model="m", status=200, prompt_tokens=7, completion_tokens=3,
                    first_token=102.0)  # fmt: skip
    now = 105
    metrics.count(record, "/p")
    assert total("requests_total", path="/p", status="200", code="") == 1
    assert (total("prompt_tokens_total"), total("completion_tokens_total")) == (7, 3)
    assert (total("request_seconds_sum"), total("time_to_first_token_seconds_sum")) == (5, 2)
    assert total("disconnects_total") is None
    metrics.count(Record("r", "POST", "/", model="m", status=499, prompt_tokens=1, disconnected=True), "/p")
    assert (total("prompt_tokens_total"), total("completion_tokens_total"), total("disconnects_total")) == (8, 3, 1)
    assert (total("request_seconds_count"), total("time_to_first_token_seconds_count")) == (2, 1)
    metrics.count(Record("r", "POST", "/", model="m", status=400, code="c"), "/p")  # refused before its prompt
    assert total("requests_total", path="/p", status="400", code="c") == 1
    assert total("request_seconds_count") == 2


def test_the_engine_says_how_busy_it_is() -> None:
    metrics = Metrics()
    stats = EngineStats(waiting=2, running=3, cache_usage=0.5)
    metrics.watch(lambda: 5, lambda: 7, lambda: stats)
    names = ("requests_waiting", "requests_running", "engine_rows_waiting", "engine_rows_running", "cache_usage_ratio")
    assert [metrics.registry.get_sample_value(f"chatplan_{name}") for name in names] == [5, 7, 2, 3, 0.5]


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
    factory = logging.getLogRecordFactory()
    logging.setLogRecordFactory(logging.LogRecord)  # Ray's, where a test before brought it, adds a field of its own

    def start(**settings: Any) -> Written:
        configure(ServerSettings(**settings))
        return lambda: capsys.readouterr().err

    yield start
    root.setLevel(level)
    logging.setLogRecordFactory(factory)


def test_each_field_of_a_line(log: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 107.12344)
    written = log()
    record = Record("r-1", "POST", "/v1/chat/completions", started=100.0, principal=Principal("ann"), model="m",
                    stream=True, status=499, code="c", param="n", prompt_tokens=5, completion_tokens=6,
                    first_token=102.34567, disconnected=True)  # fmt: skip
    log_access(record)
    log_access(Record("r-2", "GET", "/x", started=100.0))
    full, bare = lines(written())
    assert {name: value for name, value in full.items() if name != "time"} == {
        "level": "INFO", "logger": "chatplan.access", "message": "POST /v1/chat/completions 499", "request_id": "r-1",
        "principal": "ann", "model": "m", "method": "POST", "path": "/v1/chat/completions", "status": 499,
        "stream": True, "error": "c", "param": "n", "prompt_tokens": 5, "completion_tokens": 6, "ttft": 2.3457,
        "duration": 7.1234, "disconnected": True}  # fmt: skip
    assert set(full) - set(bare) == {
        "principal", "model", "error", "param", "prompt_tokens", "completion_tokens", "ttft",
        "disconnected"}  # fmt: skip
    assert bare["message"] == "GET /x -"


def test_probes_that_succeed_are_for_debugging(log: Any) -> None:
    def tell() -> None:
        for path in ("/health", "/live", "/metrics", "/v1/models"):
            for status in (200, 503):
                log_access(Record("r", "GET", path, status=status))

    failures = [(path, 503) for path in ("/health", "/live", "/metrics")] + [("/v1/models", 200), ("/v1/models", 503)]
    written = log()
    tell()
    assert [(line["path"], line["status"]) for line in lines(written())] == failures
    written = log(log_level="debug")
    tell()
    assert len(lines(written())) == 8
    written = log(log_level="warning")
    tell()
    assert lines(written()) == []


def test_plain_lines_have_the_same_fields(log: Any) -> None:
    written = log(log_format="plain")
    log_access(Record("r-1", "GET", "/x", status=200, started=time.monotonic()))
    line = written()
    assert re.search(r"INFO chatplan\.access: GET /x 200 request_id='r-1' method='GET' path='/x' status=200", line)
    assert "{" not in line


def lines(text: str, logger: str = "chatplan.access") -> list[dict[str, Any]]:
    found = [json.loads(line) for line in text.splitlines()]
    return [line for line in found if line["logger"] == logger]


def test_one_line_for_each_request(serve: Any, slow_chat: Chat, ask: Ask, log: Any) -> None:
    written = log()
    with serve(slow_chat) as server, server.client() as client:
        ask(client, stream=True, headers={"X-Request-Id": "log-1"})
        ask(client, temperature=-1)
        ask(client, fail=True)
        client.get("/health")
        ask(client, messages=[{"role": "user", "content": 3}])
        ask(client, **{SECRET: 1})
    text = written()
    streamed, bad, failed, inner, unknown = lines(text)
    assert (inner["error"], inner["param"]) == ("invalid_value", "messages")
    assert unknown["error"] == "unsupported_field"
    assert "param" not in unknown  # the name of a field may be anything that somebody wrote
    assert streamed["message"] == "POST /v1/chat/completions 200"
    assert {"time", "level", "ttft", "duration", "prompt_tokens"} < set(streamed)
    assert (streamed["request_id"], streamed["model"], streamed["completion_tokens"], streamed["stream"]) == (
        "log-1", "tests/tiny", 4, True)  # fmt: skip
    assert (bad["status"], bad["error"], bad["param"]) == (400, "invalid_value", "temperature")
    assert (failed["status"], failed["error"]) == (500, "engine_error")
    assert "param" not in failed
    assert 0 < streamed["ttft"] <= streamed["duration"]
    (cause,) = lines(text, "chatplan.server")
    assert "a secret of the inside" in cause["exc_info"]
    assert cause["request_id"] == failed["request_id"]


@pytest.mark.parametrize("form", ["json", "plain"])
def test_no_content_and_no_credential_is_logged(serve: Any, slow_chat: Chat, ask: Ask, log: Any, form: str) -> None:
    written = log(log_level="debug", log_format=form)
    secret = {"Authorization": f"Bearer {SECRET}", "x-api-key": SECRET, "token": SECRET}
    with serve(slow_chat) as server, server.client() as client:
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
    with serve(slow_chat, log_content=True) as server, server.client() as client:
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
    with serve(slow_chat, prepare=lambda app: trace_requests(app, provider)) as server, server.client() as client:
        ask(client, headers={"traceparent": parent, "X-Request-Id": "span-1"}, stream=True, seed=3)
        ask(client, n=-1)
        for probe in ("/health", "/live", "/version", "/metrics"):
            client.get(probe)
    streamed, bad = exporter.get_finished_spans()
    assert streamed.context is not None
    assert streamed.parent is not None
    assert f"{streamed.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert f"{streamed.parent.span_id:016x}" == "b7ad6b7169203331"
    attributes = dict(streamed.attributes or {})
    expected = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "chatplan", "gen_ai.request.model": "tests/tiny",
        "gen_ai.response.model": "tests/tiny", "gen_ai.request.choice.count": 1, "gen_ai.request.max_tokens": 4,
        "gen_ai.request.seed": 3, "gen_ai.request.temperature": 0, "chatplan.request_id": "span-1",
        "gen_ai.response.id": "chatcmpl-span-1", "gen_ai.usage.input_tokens": 21, "gen_ai.usage.output_tokens": 4,
    }  # fmt: skip
    assert {name: attributes[name] for name in expected} == expected
    first = attributes["chatplan.time_to_first_token"]
    assert isinstance(first, float)
    assert first > 0
    assert "error.type" not in attributes
    refused = dict(bad.attributes or {})
    assert refused["error.type"] == "invalid_value"
    assert "gen_ai.operation.name" not in refused


def test_tracing_needs_its_packages(monkeypatch: pytest.MonkeyPatch, slow_chat: Chat) -> None:
    monkeypatch.setattr("chatplan.adapters.server.tracing.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install chatplan\[otel\]"):
        create_app(slow_chat, ServerSettings(otel=True))
