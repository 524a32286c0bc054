"""Who is asked for a credential: everybody, unless the server is for this machine alone, or was told otherwise."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import pytest

from chatplan import AuthenticationError, Chat, Plugins, Principal, hookimpl
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.loading import check_access

Ask = Callable[..., httpx.Response]


class Door:
    """Takes the header ``x-api-key: good``."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        assert all(name == name.lower() for name in headers)
        key = headers.get("x-api-key")
        if key is None:
            return None
        if key != "good":
            raise AuthenticationError("not valid")
        return Principal("ada", concurrency=1)


PROTECTED = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/chat/completions/explain"),
    ("GET", "/v1/chat/completions/schema"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/tiny"),
    ("POST", "/tokenize"),
    ("POST", "/detokenize"),
]
OPEN = ["/health", "/live", "/version", "/metrics", "/openapi.json", "/docs", "/playground"]


@pytest.fixture(scope="module")
def guarded(serve: Any, new_chat: Any) -> Any:
    with serve(new_chat(plugins=[Door()])) as server:
        yield server


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_the_api_asks(guarded: Any, method: str, path: str) -> None:
    for headers in ({}, {"x-api-key": "bad"}, {"authorization": "good"}):
        answer = httpx.request(method, guarded.url + path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["error"]["type"] == "AuthenticationError"
    assert httpx.request(method, guarded.url + path, headers={"X-API-Key": "good"}).status_code != 401


def test_a_credential_sent_twice_is_none(guarded: Any) -> None:
    headers = [("x-api-key", "good"), ("x-api-key", "good")]
    assert httpx.get(f"{guarded.url}/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_probes_ask_nobody(guarded: Any, path: str) -> None:
    assert httpx.get(guarded.url + path).status_code == 200


def test_metrics_may_ask(serve: Any, new_chat: Any) -> None:
    with serve(new_chat(plugins=[Door()]), metrics_auth=True) as server:
        assert httpx.get(f"{server.url}/metrics").status_code == 401
        assert httpx.get(f"{server.url}/metrics", headers={"x-api-key": "good"}).status_code == 200


def test_a_flag_asks_nobody(serve: Any, new_chat: Any, ask: Ask) -> None:
    with serve(new_chat(plugins=[Door()]), no_auth=True) as server, httpx.Client(base_url=server.url) as client:
        assert ask(client).status_code == 200


def test_concurrency_ends_with_the_request(serve: Any, new_chat: Any, ask: Ask) -> None:
    with serve(new_chat(plugins=[Door()])) as server, httpx.Client(base_url=server.url) as client:
        for stream in (True, False, True, False):
            assert ask(client, headers={"x-api-key": "good"}, stream=stream).status_code == 200
            server.wait_idle()
        assert ask(client, headers={"x-api-key": "good"}, max_tokens=10**6).status_code == 400
        server.wait_idle()
        assert ask(client, headers={"x-api-key": "good"}).status_code == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_this_machine_needs_no_credential(host: str) -> None:
    check_access(ServerSettings(host=host), Plugins(installed=False))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_addresses_need_a_way(host: str) -> None:
    with pytest.raises(ValueError, match="chatplan keys create.*--no-auth"):
        check_access(ServerSettings(host=host), Plugins(installed=False))
    check_access(ServerSettings(host=host), Plugins([Door()], installed=False))
    check_access(ServerSettings(host=host, no_auth=True), Plugins(installed=False))


def test_a_connection_from_elsewhere_is_asked_whatever_the_settings_say(slow_chat: Chat) -> None:
    """An app that another program serves may be bound to an address that its settings do not know."""
    from chatplan.adapters.server import create_app

    async def get(host: str) -> httpx.Response:
        transport = httpx.ASGITransport(create_app(slow_chat, ServerSettings()))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}:80") as client:
            return await client.get("/v1/models")

    import asyncio

    assert asyncio.run(get("127.0.0.1")).status_code == 200
    assert asyncio.run(get("10.0.0.8")).status_code == 401


def test_a_unix_socket_is_this_machine(slow_chat: Chat, tmp_path: Any) -> None:
    check_access(ServerSettings(uds=tmp_path / "s", host="0.0.0.0"), Plugins(installed=False))
    assert hasattr(socket, "AF_UNIX")
