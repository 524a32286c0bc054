"""The parts of the Ray door that need no cluster."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatplan.adapters.ray_serve import RaySettings, build, commands, deploying
from chatplan.adapters.ray_serve.call import Call, respond
from chatplan.adapters.ray_serve.fleet import fleet_metrics, merged
from chatplan.adapters.ray_serve.gateway import Gateway
from chatplan.adapters.ray_serve.routing import PrefixRouter, prefix_of, ranked

GIVEN = {"method": "POST", "scheme": "http", "path": "/app/v1", "root_path": "/app", "query_string": b""}


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"replicas": 3, "max_replicas": 2}, "max_replicas: 2 is less than replicas=3"),
        ({"replicas": 0}, "set max_replicas"),
        ({"target_ongoing_requests": 3}, "nothing scales without max_replicas"),
        ({"prefix_chars": 10}, "only routing=prefix"),
        ({"num_gpus": 0.5}, "kv_cache_bytes: with num_gpus=0.5 replicas share a GPU"),
        ({"uds": "/tmp/a"}, "uds: "),
        ({"replica": 2}, "replica"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        RaySettings(model="m", **given)


@pytest.mark.parametrize("name", ["host", "port", "ssl_certfile", "ssl_keyfile"])
def test_the_socket_is_the_clusters(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: .*http_options"):
        build({"model": "m", name: "1"})


def test_arguments_of_a_shell_are_strings() -> None:
    given: dict[str, Any] = {"replicas": "2", "num_gpus": "0.5", "kv_cache_bytes": "1000", "plugins": "a,b"}
    settings = RaySettings(model="m", **given)
    assert (settings.replicas, settings.num_gpus, settings.plugins) == (2, 0.5, ["a", "b"])


def test_an_application_needs_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATPLAN_MODEL", raising=False)
    with pytest.raises(ValueError, match="model: which one"):
        build({})


BOUNDS: list[dict[str, Any]] = [
    {"replicas": -1}, {"max_replicas": 0}, {"target_ongoing_requests": 0, "max_replicas": 2},
    {"max_ongoing_requests": 0}, {"num_gpus": -1}, {"num_cpus": -0.5}, {"routing": "random"}, {"gateways": 0},
    {"retries": -1}, {"queue_seconds": 0}, {"prefix_chars": 0, "routing": "prefix"},
]  # fmt: skip


@pytest.mark.parametrize("given", BOUNDS, ids=str)
def test_values_out_of_bounds_are_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(given))):
        RaySettings(model="m", **given)


def settings_of(**given: Any) -> RaySettings:
    return RaySettings(model="m", **given)


def test_values_at_the_bounds_are_taken() -> None:
    found = settings_of(replicas=0, max_replicas=1, retries=0, num_cpus=0, num_gpus=1, max_ongoing_requests=1)
    assert (found.replicas, found.retries, found.gateways, found.queue_seconds) == (0, 0, 1, 60)
    assert settings_of(replicas=2, max_replicas=2).target_ongoing_requests == 16
    assert settings_of(num_gpus=0.5, kv_cache_bytes=1000).num_gpus == 0.5


# --- deployments ------------------------------------------------------------------------------------------------------


def test_replicas_get_what_the_settings_say() -> None:
    settings = settings_of(replicas=3, num_cpus=2, num_gpus=1, max_queue=7, max_ongoing_requests=9,
                           shutdown_seconds=11, gateways=4)  # fmt: skip
    assert deploying._replica_options(settings) == {
        "max_ongoing_requests": 9, "max_queued_requests": 7, "ray_actor_options": {"num_cpus": 2, "num_gpus": 1},
        "graceful_shutdown_timeout_s": 11, "num_replicas": 3,
    }  # fmt: skip
    assert deploying._gateway_options(settings) == {
        "num_replicas": 4, "max_ongoing_requests": 10_000, "ray_actor_options": {"num_cpus": 0.1},
        "graceful_shutdown_timeout_s": 11,
    }  # fmt: skip


def test_replicas_scale_between_two_numbers() -> None:
    settings = settings_of(replicas=1, max_replicas=5, target_ongoing_requests=3, routing="prefix")
    options = deploying._replica_options(settings)
    assert options["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 5, "target_ongoing_requests": 3}
    assert "num_replicas" not in options
    assert options["request_router_config"] == {"request_router_class": PrefixRouter}


def test_where_proxies_listen() -> None:
    assert commands._http_options(settings_of(port=81)) == {"host": "127.0.0.1", "port": 81}


# --- what a gateway sends on ------------------------------------------------------------------------------------------


def gateway(**settings: Any) -> Any:
    replicas: Any = SimpleNamespace(options=lambda **options: options)
    return Gateway(replicas, settings_of(**settings))


def request(path: str, body: bytes, method: str = "POST") -> Request:
    parts = [body[:3], body[3:]]

    async def receive() -> Message:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    headers = [(b"x-request-id", b"ray"), (b"x-other", b"1")]
    return Request({**GIVEN, "type": "http", "method": method, "path": path, "headers": headers}, receive)


TALK = b'{"messages": [{"role": "user", "content": "Hello"}]}'


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (TALK, False),
        (b'{"request_id": "mine"}', True),
        (b'{"request_id": null}', False),
        (b'{"user": "\\"request_id\\""}', False),
        (b'["request_id"]', False),
        (b'{"request_id"', False),
    ],
)
def test_a_request_that_names_itself_has_no_other_id(body: bytes, named: bool) -> None:
    call = asyncio.run(gateway()._call(request("/app/v1", body)))
    assert call.headers == [(b"x-request-id", b"ray")] * (not named) + [(b"x-other", b"1")]
    assert call.body == body


def test_prompts_are_read_where_they_choose_the_replica() -> None:
    given = {"routing": "prefix", "prefix_chars": 9}
    assert asyncio.run(gateway(**given)._call(request("/app/v1", TALK))).prefix == prefix_of(TALK, 9)
    assert asyncio.run(gateway(**given)._call(request("/app/v1", TALK, "GET"))).prefix == ""
    assert asyncio.run(gateway()._call(request("/app/v1", TALK))).prefix == ""


@pytest.mark.parametrize("length", [19, 20, 21, 50])
def test_no_more_of_a_body_is_kept_than_tells_that_it_is_too_long(length: int) -> None:
    call = asyncio.run(gateway(max_body_bytes=20)._call(request("/app/v1", b"x" * length)))
    assert len(call.body) == min(length, 21)


@pytest.mark.parametrize(
    ("path", "queue", "seconds"),
    [("/app/v1/models", 60, 60.0), ("/app/health", 60, 5.0), ("/app/live", 60, 5.0), ("/app/health", 2, 2.0)],
)
def test_probes_do_not_wait_long(path: str, queue: float, seconds: float) -> None:
    relay = asyncio.run(gateway(queue_seconds=queue, retries=4)(request(path, b"", "GET")))
    assert (relay._seconds, relay._tries) == (seconds, 5)
    assert relay._replicas == {"method_name": "answer", "stream": True}


# --- routing ----------------------------------------------------------------------------------------------------------


def test_the_beginning_is_what_the_prompt_is_made_of() -> None:
    one = prefix_of(b'{"messages": [{"role": "user", "content": "Hello"}], "seed": 1}', 1000)
    assert one == prefix_of(b'{"seed": 2, "messages": [{"role": "user", "content": "Hello"}]}', 1000)
    assert one != prefix_of(b'{"messages": [{"role": "user", "content": "Hello"}], "cache_salt": "x"}', 1000)
    assert prefix_of(b'{"messages": [{"role": "user", "content": "Hello"}]}', 20) == one[:20]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"messages": 3}', b"\xff"])
def test_what_is_no_request_has_no_beginning(body: bytes) -> None:
    assert prefix_of(body, 10) == ""


def test_few_beginnings_move_when_a_replica_goes() -> None:
    names = [f"replica{number}" for number in range(10)]
    before = {text: names[ranked(text, names)[0]] for text in map(str, range(500))}
    after = {text: names[ranked(text, names[:-1])[0]] for text in before}
    assert all(after[text] == place for text, place in before.items() if place != names[-1])
    counts = [list(before.values()).count(name) for name in names]
    assert min(counts) > 25
    assert max(counts) < 90


def test_the_tools_and_the_salt_come_before_the_messages() -> None:
    data = {"messages": [{"a": 1}, {"b": 2}], "tools": [{"c": 3}], "cache_salt": "salt"}
    assert prefix_of(json.dumps(data).encode(), 100) == '"salt"[{"c": 3}]{"a": 1}{"b": 2}'
    assert prefix_of(json.dumps(data).encode(), 6) == '"salt"'
    assert prefix_of(b'{"messages": ["\\u00e4"]}', 100) == '"\u00e4"'


def choose(loads: dict[str, int], *, prefix: str = "p", pending: bool = True) -> tuple[list[list[str]], Any]:
    """The names of the replicas to ask, in their ranks; and whether Ray waits before it asks again."""
    replicas: Any = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in loads]
    queue = SimpleNamespace(get=lambda replica_id: loads[replica_id.unique_id])
    context = SimpleNamespace(should_backoff=False)
    waiting: Any = SimpleNamespace(args=[Call(GIVEN, [], b"", prefix)], routing_context=context) if pending else None
    router: Any = SimpleNamespace(replica_queue_len_cache=queue)
    found = asyncio.run(PrefixRouter.choose_replicas(router, replicas, waiting))
    return [[replica.replica_id.unique_id for replica in rank] for rank in found], context.should_backoff


def test_replicas_are_asked_in_the_order_of_their_rank() -> None:
    names = ["a", "b", "c", "d"]
    order = [names[place] for place in ranked("p", names)]
    assert choose(dict.fromkeys(names, 0)) == ([[name] for name in order], True)


def test_a_replica_with_too_much_work_is_left_out() -> None:
    names = ["a", "b", "c", "d"]
    order = [names[place] for place in ranked("p", names)]
    # The mean with this request is 13/4, of which a quarter more is 4.06: 5 and more is too much.
    loads = dict(zip(order, (5, 4, 2, 1), strict=True))
    assert choose(loads) == ([[name] for name in order[1:]], True)


def test_two_are_drawn_where_nothing_is_known_of_the_prompt() -> None:
    loads = {"a": 0, "b": 0, "c": 0}
    for found, backs_off in (choose(loads, prefix=""), choose(loads, pending=False)):
        (rank,) = found
        assert len(set(rank)) == 2
        assert backs_off in (True, False)
    assert choose(loads, prefix="")[1] is True
    assert choose({"a": 0}, prefix="") == ([["a"]], True)


# --- ASGI without a socket --------------------------------------------------------------------------------------------


def _all(app: ASGIApp, body: bytes = b"") -> list[list[Message]]:
    async def go() -> list[list[Message]]:
        return [messages async for messages in respond(app, Call(GIVEN, [], body))]

    return asyncio.run(go())


def test_an_app_gets_the_body_and_answers_at_once() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await PlainTextResponse(body.upper())(scope, receive, send)

    (messages,) = _all(app, b"hi")
    assert messages[0]["status"] == 200
    assert messages[1]["body"] == b"HI"


def test_an_app_that_fails_says_so() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        _all(app)


def test_nobody_reads_on_is_a_disconnect() -> None:
    ended = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async def forever() -> Any:
            try:
                while True:
                    yield b"x"
                    await asyncio.sleep(0.01)
            finally:
                ended.append(True)

        await Request(scope, receive).body()
        await StreamingResponse(forever())(scope, receive, send)

    async def go() -> None:
        pieces = respond(app, Call(GIVEN, [], b""))
        await anext(pieces)
        await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]

    asyncio.run(go())
    assert ended == [True]


def test_paths_are_below_the_prefix() -> None:
    assert Call(GIVEN, [], b"").path == "/v1"


def test_messages_that_are_there_come_together() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        assert (scope["state"], scope["headers"], scope["query_string"]) == ({}, [], b"")
        for number in range(3):
            await send({"type": "x", "number": number})
        await asyncio.sleep(0.01)
        await send({"type": "x", "number": 3})

    assert [[message["number"] for message in piece] for piece in _all(app)] == [[0, 1, 2], [3]]


def test_only_what_can_be_sent_of_a_scope_is_kept() -> None:
    call = Call.of({**GIVEN, "app": object(), "state": {"a": 1}}, [(b"a", b"b")], b"x", "p")
    assert (call.given, call.headers, call.body, call.prefix) == (GIVEN, [(b"a", b"b")], b"x", "p")
    assert Call({"path": "/app", "root_path": "/app"}, [], b"").path == "/"


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_of_replicas_are_one_text() -> None:
    text = '# HELP a_total A.\n# TYPE a_total counter\na_total{model="m"} 2.0\n'
    both = merged({"one": text, "two": text}).decode()
    assert both.count("# TYPE a_total counter") == 1
    assert 'a_total{model="m",replica="one"} 2.0' in both
    assert 'a_total{model="m",replica="two"} 2.0' in both


def fleet_of(*found: Any, error: Exception | None = None) -> Any:
    """Replicas that answer like this to a broadcast."""
    asked: list[Any] = []

    async def results_async(timeout_s: float, return_exceptions: bool) -> list[Any]:
        asked.append((timeout_s, return_exceptions))
        if error is not None:
            raise error
        return list(found)

    def broadcast(*call: Any) -> Any:
        asked.append(call)
        return SimpleNamespace(results_async=results_async)

    return SimpleNamespace(broadcast=broadcast, asked=asked)


def page(text: str, status: int = 200) -> list[Message]:
    headers = [(b"x-request-id", b"a"), (b"content-type", b"text/plain")]
    half = len(text) // 2
    return [{"type": "http.response.start", "status": status, "headers": headers},
            {"type": "http.response.body", "body": text[:half].encode(), "more_body": True},
            {"type": "http.response.body", "body": text[half:].encode()}]  # fmt: skip


def test_metrics_are_those_of_all_replicas_that_answer() -> None:
    text = "# TYPE a gauge\na 2.0\n"
    replicas = fleet_of(("one", page(text)), RuntimeError("dying"), ("two", page(text)))
    call = Call(GIVEN, [], b"")
    answer = asyncio.run(fleet_metrics(replicas, call))
    assert bytes(answer.body).decode() == merged({"one": text, "two": text}).decode()
    assert replicas.asked == [("whole", call), (10.0, True)]
    assert answer.headers["content-type"].startswith("text/plain; version=")


def test_a_refusal_of_metrics_is_passed_on() -> None:
    answer = asyncio.run(fleet_metrics(fleet_of(("one", page("no", 401))), Call(GIVEN, [], b"")))
    assert (answer.status_code, bytes(answer.body)) == (401, b"no")
    assert answer.raw_headers == [(b"content-type", b"text/plain")]


def test_without_replicas_metrics_are_empty() -> None:
    answer = asyncio.run(fleet_metrics(fleet_of(error=TimeoutError()), Call(GIVEN, [], b"")))
    assert (answer.status_code, bytes(answer.body)) == (200, b"")
