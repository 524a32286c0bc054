"""Who is asked for a credential: everybody, unless the server is for this machine alone, or was told otherwise."""

from __future__ import annotations

import asyncio
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import join

from chatplan import AuthenticationError, Chat, Plugins, Principal, hookimpl
from chatplan.adapters.server import Server, ServerSettings, create_app
from chatplan.adapters.server.loading import check_access

Ask = Callable[..., httpx.Response]


PEOPLE = {
    "good": Principal("ada", concurrency=1),
    "calm": Principal("bob", max_priority=0),
    "limited": Principal("cy", models=frozenset({"alias"})),
    "foreign": Principal("dee", models=frozenset({"elsewhere"})),
}


class Door:
    """Takes the header ``x-api-key``, with one of these keys."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        assert all(name == name.lower() for name in headers)
        key = headers.get("x-api-key")
        if key is None:
            return None
        if key not in PEOPLE:
            raise AuthenticationError("not valid")
        return PEOPLE[key]


class Rare:
    """Takes any ``x-api-key``, for two requests in a minute."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        return Principal(headers["x-api-key"], requests_per_minute=2)


class Purse:
    """Takes any ``x-api-key``, which is the number of tokens that may be used in a minute."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        return Principal(headers["x-api-key"], tokens_per_minute=int(headers["x-api-key"]))


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
def guarded(serve: Any, new_chat: Any, slow_plugin: Any) -> Any:
    chat = new_chat(plugins=[Door(), slow_plugin], scheduling_policy="priority")
    with serve(chat, served_model_name="tests/tiny,alias") as server:
        yield server


@pytest.fixture
def client(guarded: Any) -> Iterator[httpx.Client]:
    guarded.wait_idle()
    with guarded.client() as client:
        yield client


@pytest.fixture
def as_(client: httpx.Client, ask: Ask) -> Ask:
    """Asks with a key: ``as_("good", n=2)``."""
    return lambda key, **fields: ask(client, headers={"x-api-key": key}, **fields)


@pytest.mark.parametrize(("method", "path"), PROTECTED)
def test_the_api_asks(client: httpx.Client, method: str, path: str) -> None:
    for headers in ({}, {"x-api-key": "bad"}, {"authorization": "good"}):
        answer = client.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.json()["error"]["type"] == "AuthenticationError"
    assert client.request(method, path, headers={"X-API-Key": "good"}).status_code != 401


def test_a_credential_sent_twice_is_none(client: httpx.Client) -> None:
    headers = [("x-api-key", "good"), ("x-api-key", "good")]
    assert client.get("/v1/models", headers=headers).status_code == 401


@pytest.mark.parametrize("path", OPEN)
def test_probes_ask_nobody(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 200


def test_metrics_may_ask(serve: Any, new_chat: Any) -> None:
    with serve(new_chat(plugins=[Door()]), metrics_auth=True) as server, server.client() as client:
        assert client.get("/metrics").status_code == 401
        assert client.get("/metrics", headers={"x-api-key": "bad"}).status_code == 401
        assert client.get("/metrics", headers={"x-api-key": "good"}).status_code == 200
        assert client.get("/health").status_code == 200


# --- what a credential allows -----------------------------------------------------------------------------------------


def denied(answer: httpx.Response, param: str) -> None:
    assert (answer.status_code, answer.json()["error"]["param"]) == (403, param)
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def too_much(answer: httpx.Response, code: str) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, code)
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_more_urgent_than_the_credential_allows_is_refused(as_: Ask, stream: bool) -> None:
    denied(as_("calm", priority=-1, stream=stream), "priority")
    assert as_("calm", priority=0, stream=stream).status_code == 200
    assert as_("calm", priority=1, stream=stream).status_code == 200
    assert as_("limited", priority=-1, stream=stream).status_code == 200  # who has no such limit


def test_an_explanation_needs_what_the_request_would(client: httpx.Client) -> None:
    request = {"messages": [{"role": "user", "content": "Hi"}], "priority": -1}
    explain = "/v1/chat/completions/explain"
    denied(client.post(explain, json=request, headers={"x-api-key": "calm"}), "priority")
    assert client.post(explain, json={**request, "priority": 0}, headers={"x-api-key": "calm"}).status_code == 200


def test_a_credential_for_one_name_of_the_model_is_good_for_all_of_them(as_: Ask) -> None:
    for name in (None, "tests/tiny", "tiny", "alias"):
        assert as_("limited", model=name).status_code == 200
        denied(as_("foreign", model=name), "model")
    assert as_("calm", model="nobody").status_code == 404
    denied(as_("limited", model="nobody"), "model")
    assert as_("foreign", model="elsewhere").status_code == 404


def test_requests_of_every_kind_count_for_the_minute(noon: None, serve: Any, new_chat: Any, ask: Ask) -> None:
    paths: list[tuple[str, str, Any]] = [
        ("POST", "/v1/chat/completions/explain", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("GET", "/v1/chat/completions/schema", None),
        ("POST", "/tokenize", {"prompt": "Hi"}),
        ("POST", "/detokenize", {"tokens": [1]}),
    ]
    with serve(new_chat(plugins=[Rare()])) as server, server.client() as client:
        for method, path, body in paths:
            key = {"x-api-key": path}
            assert client.request(method, path, json=body, headers=key).status_code == 200
            assert ask(client, headers=key).status_code == 200
            too_much(client.request(method, path, json=body, headers=key), "requests_per_minute")
            too_much(ask(client, headers=key), "requests_per_minute")
        assert ask(client, headers={"x-api-key": "another"}).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_of_prompts_and_of_answers_count_for_the_minute(
    noon: None, serve: Any, new_chat: Any, ask: Ask, stream: bool
) -> None:
    chat = new_chat(plugins=[Purse()])
    prompt = len(chat.plan([{"role": "user", "content": "Hi"}], max_tokens=4).prompt.token_ids)
    with serve(chat) as server, server.client() as client:
        for most, second in ((prompt + 4, 429), (prompt + 5, 200)):
            for status in (200, second):
                answer = ask(client, headers={"x-api-key": str(most)}, stream=stream)
                assert answer.status_code == status
                server.wait_idle()  # the tokens of a stream are counted at its end
        too_much(ask(client, headers={"x-api-key": str(prompt + 5)}), "tokens_per_minute")


def test_a_prompt_counts_as_soon_as_it_is_read(
    noon: None, serve: Any, new_chat: Any, hold: Any, ask: Ask, stream: Any
) -> None:
    chat = new_chat(plugins=[Purse(), hold])
    prompt = len(chat.plan([{"role": "user", "content": "Hi"}], max_tokens=4).prompt.token_ids)
    key = {"x-api-key": str(prompt)}
    with (
        serve(chat, keep_alive_seconds=0.05) as server,
        server.client() as client,
        stream(client, headers=key, hold=0),
    ):
        too_much(ask(client, headers=key), "tokens_per_minute")
        hold.let_go()


def test_requests_at_once_are_counted_for_each_sender(
    client: httpx.Client, as_: Ask, stream: Any, guarded: Any
) -> None:
    good, calm = {"x-api-key": "good"}, {"x-api-key": "calm"}
    with stream(client, headers=good, slow=0.05, max_tokens=900):
        too_much(as_("good"), "concurrency_exceeded")
        too_much(client.post("/tokenize", json={"prompt": "Hi"}, headers=good), "concurrency_exceeded")
        too_much(client.post("/detokenize", json={"tokens": [1]}, headers=good), "concurrency_exceeded")
        too_much(client.get("/v1/chat/completions/schema", headers=good), "concurrency_exceeded")
        assert client.post("/tokenize", json={"prompt": "Hi"}, headers=calm).status_code == 200
        assert client.get("/v1/models", headers=good).status_code == 200
    guarded.wait_idle()
    for path in ("/tokenize", "/tokenize"):  # each gives back what it took
        assert client.post(path, json={"prompt": "Hi"}, headers=good).status_code == 200
    assert as_("good").status_code == 200


# --- threads ----------------------------------------------------------------------------------------------------------


class Crowd:
    """A plugin: requests meet while they are checked, ``size`` of them or as many as come."""

    name = "crowd"

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size)
        self.together: list[bool] = []

    @hookimpl
    def check_request(self) -> None:
        try:
            self.barrier.wait(40)
            self.together.append(True)
        except threading.BrokenBarrierError:
            self.together.append(False)


def test_as_many_requests_are_planned_at_once_as_there_are_threads(serve: Any, new_chat: Any, ask: Ask) -> None:
    crowd = Crowd(3)
    with (
        serve(new_chat(plugins=[crowd]), planning_threads=3) as server,
        server.client() as client,
        ThreadPoolExecutor(3) as threads,
    ):
        answers = list(threads.map(lambda _: ask(client).status_code, range(3)))
    assert (answers, crowd.together) == ([200] * 3, [True] * 3)


class Counting:
    """A plugin that knows the most requests that were checked at once."""

    name = "counting"

    def __init__(self) -> None:
        self.now, self.most, self.lock = 0, 0, threading.Lock()

    @hookimpl
    def check_request(self) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)  # for another one to come, if it may
        with self.lock:
            self.now -= 1


def test_no_more_requests_are_planned_at_once_than_there_are_threads(serve: Any, new_chat: Any, ask: Ask) -> None:
    counting = Counting()
    with (
        serve(new_chat(plugins=[counting]), planning_threads=1) as server,
        server.client() as client,
        ThreadPoolExecutor(3) as threads,
    ):
        assert set(threads.map(lambda _: ask(client).status_code, range(3))) == {200}
    assert counting.most == 1


class Shut:
    """A plugin: whoever has a key may ask, and requests are checked when the test opens."""

    name = "shut"

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        return Principal("ada") if "x-api-key" in headers else None

    @hookimpl
    def check_request(self) -> None:
        self.entered.set()
        assert self.opened.wait(40), "nobody opened"


def test_requests_being_planned_keep_nobody_from_being_identified(serve: Any, new_chat: Any, ask: Ask) -> None:
    shut = Shut()
    with (
        serve(new_chat(plugins=[shut]), planning_threads=1) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as thread,
    ):
        planned = thread.submit(ask, client, {"x-api-key": "ann"})
        assert shut.entered.wait(30)
        assert client.get("/v1/models").status_code == 401
        assert client.get("/v1/models", headers={"x-api-key": "bob"}).status_code == 200
        shut.opened.set()
        assert planned.result(60).status_code == 200


# --- where the server listens -----------------------------------------------------------------------------------------


def test_a_flag_asks_nobody(serve: Any, new_chat: Any, ask: Ask) -> None:
    with serve(new_chat(plugins=[Door()]), no_auth=True) as server, server.client() as client:
        assert ask(client).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_concurrency_ends_with_the_request(guarded: Any, as_: Ask, stream: bool) -> None:
    for fields, status in (({}, 200), ({"max_tokens": 10**6}, 400), ({"fail": True}, 500), ({}, 200)):
        assert as_("good", stream=stream, **fields).status_code == status
        guarded.wait_idle()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "::1"])
def test_this_machine_needs_no_credential(host: str) -> None:
    check_access(ServerSettings(host=host), Plugins(installed=False))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_addresses_need_a_way(host: str) -> None:
    with pytest.raises(ValueError, match="chatplan keys create.*--no-auth"):
        check_access(ServerSettings(host=host), Plugins(installed=False))
    check_access(ServerSettings(host=host), Plugins([Door()], installed=False))
    check_access(ServerSettings(host=host, no_auth=True), Plugins(installed=False))


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("127.9.9.9", 200), ("localhost", 200), ("[::1]", 200),
     ("10.0.0.8", 401), ("0.0.0.0", 401), ("example.org", 401), ("[2001:db8::1]", 401)],
)  # fmt: skip
def test_a_connection_from_elsewhere_is_asked_whatever_the_settings_say(
    slow_chat: Chat, host: str, status: int
) -> None:
    """An app that another program serves may be bound to an address that its settings do not know."""

    async def get(**settings: Any) -> int:
        transport = httpx.ASGITransport(create_app(slow_chat, ServerSettings(**settings)))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://{host}:8080") as client:
            assert (await client.get("/metrics")).status_code == 200
            return (await client.get("/v1/models")).status_code

    assert asyncio.run(get()) == status
    assert asyncio.run(get(no_auth=True)) == 200


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this system has no Unix sockets")
def test_a_unix_socket_is_this_machine(slow_chat: Chat, tmp_path: Path) -> None:
    settings = ServerSettings(uds=tmp_path / "s", host="0.0.0.0", shutdown_seconds=0)
    check_access(settings, Plugins(installed=False))
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    server = Server(create_app(slow_chat, settings), heard.put)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert heard.get(timeout=60) == 0
        transport = httpx.HTTPTransport(uds=str(settings.uds))
        with httpx.Client(transport=transport, base_url="http://anywhere", timeout=60) as client:
            assert client.get("/v1/models").status_code == 200
    finally:
        server.handle_exit(signal.SIGTERM, None)
        join(thread)
