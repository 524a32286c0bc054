"""The parts of the Ray door that need no cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatplan.adapters.ray_serve import RaySettings, build
from chatplan.adapters.ray_serve.call import Call, respond
from chatplan.adapters.ray_serve.fleet import merged
from chatplan.adapters.ray_serve.routing import prefix_of, ranked

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


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_metrics_of_replicas_are_one_text() -> None:
    text = '# HELP a_total A.\n# TYPE a_total counter\na_total{model="m"} 2.0\n'
    both = merged({"one": text, "two": text}).decode()
    assert both.count("# TYPE a_total counter") == 1
    assert 'a_total{model="m",replica="one"} 2.0' in both
    assert 'a_total{model="m",replica="two"} 2.0' in both
