"""Connecting: what a server is found to be, names and keys, plugins, explanations."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from chatplan import (
    AuthenticationError,
    Chat,
    ChatCompletionRequest,
    ChatplanError,
    EngineError,
    OverloadedError,
    PluginError,
    Principal,
    RequestError,
    UnsupportedFieldError,
    hookimpl,
)
from chatplan.adapters.remote import RemoteRunner, remote_chat
from chatplan.adapters.remote.server import base_url
from chatplan.response import Usage

HI = [{"role": "user", "content": "Hi"}]


def pages(owner: str = "someone", **more: Any) -> dict[str, Any]:
    card = {"id": "theirs", "owned_by": owner, **more.pop("card", {})}
    return {"/v1/models": {"object": "list", "data": [card]}, **{f"/{name}": page for name, page in more.items()}}


def server(chat: Chat) -> str:
    assert isinstance(chat.engine, RemoteRunner)
    return chat.engine.table.server


# --- detection --------------------------------------------------------------------------------------------------------

TGI_INFO = {"model_id": "org/model", "version": "3.3.5", "max_best_of": 2, "max_total_tokens": 512}
LLAMA = pages("llamacpp", props={"build_info": "b8123-0177c34"}, card={"meta": {"n_ctx": 64}})
KINDS: list[tuple[dict[str, Any], str, int | None]] = [
    (pages("vllm", version={"version": "0.32.0+cpu"}, card={"max_model_len": 512}), "vLLM 0.32.0+cpu", 512),
    (pages("vllm"), "vLLM", None),
    (pages("sglang", server_info={"version": "0.5.9"}), "SGLang 0.5.9", None),
    (pages("sglang", get_server_info={"version": "0.4.6"}), "SGLang 0.4.6", None),
    (LLAMA, "llama.cpp b8123-0177c34", 64),
    (pages("org/model", info=TGI_INFO), "TGI 3.3.5", 512),
    ({"/info": TGI_INFO}, "TGI 3.3.5", 512),
    (pages("system", info={"build": "x"}), "OpenAI's API", None),
]


@pytest.mark.parametrize(("found", "name", "context"), KINDS)
def test_kinds_are_found(
    connect: Callable[..., Any], peer: Any, found: dict[str, Any], name: str, context: int | None
) -> None:
    peer.pages = found
    chat = connect(peer, server="auto", model=None)
    assert (server(chat), chat.model.context_length) == (name, context)
    assert chat.model.name in ("theirs", "org/model")


def test_our_own_server_is_found(remote: Chat) -> None:
    assert (server(remote), remote.model.name, remote.model.context_length) == (
        "the chatplan server",
        "tests/tiny",
        1024,
    )


def test_nothing_is_asked_that_is_known(connect: Callable[..., Any]) -> None:
    connect("http://127.0.0.1:9", server="vllm", version="0.32", model="theirs")


def test_a_server_that_is_away_is_left_out(connect: Callable[..., Any], peer: Any) -> None:
    peer.pages = pages("vllm", version={"version": "0.32.0"})
    assert server(connect("http://127.0.0.1:9", peer, server="auto", model=None)) == "vLLM 0.32.0"
    with pytest.raises(OverloadedError):
        connect("http://127.0.0.1:9", server="auto")


def test_servers_of_two_kinds(connect: Callable[..., Any], new_peer: Callable[[], Any]) -> None:
    one, two = new_peer(), new_peer()
    one.pages, two.pages = pages("vllm", version={"version": "0.8.5"}), pages("vllm", version={"version": "0.32.0"})
    with pytest.raises(EngineError, match="vllm 0.8.5 and vllm 0.32.0"):
        connect(one, two, server="auto")


def test_a_server_without_models(connect: Callable[..., Any], peer: Any) -> None:
    peer.pages = {}
    with pytest.raises(EngineError, match="pass model"):
        connect(peer, server="auto", model=None)


def test_no_such_kind() -> None:
    with pytest.raises(ValueError, match="'vlm' is none of auto, chatplan"):
        remote_chat("http://127.0.0.1:9", server="vlm")
    with pytest.raises(ValueError, match="at least one address"):
        remote_chat([])


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host:8000/v1/", "http://host:8000/v1"),
        ("https://host/openai/v1", "https://host/openai/v1"),
    ],
)
def test_urls(given: str, wanted: str) -> None:
    assert base_url(given) == wanted


# --- keys and ids -----------------------------------------------------------------------------------------------------


def test_keys_are_sent_when_given_and_never_taken_from_the_environment(
    connect: Callable[..., Any], peer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.setitem(os.environ, name, "secret")
    connect(peer)(HI)
    assert "secret" not in str(peer.got)
    assert "authorization" not in peer.got[-1][1]
    connect(peer, api_key="mine", headers={"X-Team": "blue"})(HI)
    headers = peer.got[-1][1]
    assert (headers["authorization"], headers["x-team"]) == ("Bearer mine", "blue")


def test_ids_are_passed_through(connect: Callable[..., Any], peer: Any, remote: Chat) -> None:
    assert remote(HI, request_id="mine-1", max_tokens=1).id == "chatcmpl-mine-1"
    for kind, name in (("vllm", "request_id"), ("sglang", "rid"), ("openai", "")):
        answer = connect(peer, server=kind, version="1")(HI, request_id="mine")
        assert answer.id == "chatcmpl-mine"
        assert peer.got[-1][1]["x-request-id"] == "mine"
        assert peer.body.get(name) == ("mine" if name else None)
    assert connect(peer)(HI).id == "chatcmpl-theirs"
    with pytest.raises(RequestError) as caught:
        remote(HI, request_id="mine\n")
    assert caught.value.param == "request_id"


class Door:
    """A plugin with one key."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        if headers.get("authorization") != "Bearer right":
            raise AuthenticationError("not valid")
        return Principal("ada")


def test_a_server_that_asks_for_a_key(serve: Any, new_chat: Any) -> None:
    with serve(new_chat(plugins=[Door()])) as server:
        with pytest.raises(AuthenticationError):
            remote_chat(server.url, api_key="wrong")
        chat = remote_chat(server.url, api_key="right")
        assert chat(HI, max_tokens=1).usage.completion_tokens == 1
        chat.close()


# --- plugins ----------------------------------------------------------------------------------------------------------


class Count:
    """An observer, with a field of its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[Usage | None, ChatplanError | None]] = []

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"slow": float}

    @hookimpl
    def request_finished(self, usage: Usage | None, error: ChatplanError | None) -> None:
        self.seen.append((usage, error))


class Worker:
    """A plugin with work that would be lost."""

    @hookimpl
    def template_args(self, request: ChatCompletionRequest) -> Mapping[str, Any] | None:
        return {"a": 1}


def test_observers_see_requests(tiny_server: Any, connect: Callable[..., Any]) -> None:
    count = Count()
    chat = connect(tiny_server.url, server="chatplan", model="tests/tiny", plugins=[count])
    chat(HI, max_tokens=2, slow=0.01, ignore_eos=True)
    with pytest.raises(RequestError):
        chat(HI, max_tokens=5000)
    (usage, none), (nothing, error) = count.seen
    assert usage is not None
    assert (usage.completion_tokens, none, nothing, getattr(error, "param", "")) == (2, None, None, "max_tokens")


def test_fields_of_plugins_go_to_our_own_servers_only(connect: Callable[..., Any], peer: Any) -> None:
    with pytest.raises(UnsupportedFieldError) as caught:
        connect(peer, plugins=[Count()])(HI, slow=1.0)
    assert caught.value.param == "slow"
    assert not peer.got


def test_work_that_would_be_lost_is_an_error(connect: Callable[..., Any]) -> None:
    with pytest.raises(PluginError, match="'Worker': template_args would have no effect"):
        connect("http://127.0.0.1:9", plugins=[Worker()])


# --- looking inside ---------------------------------------------------------------------------------------------------


def test_explain_says_what_is_sent(connect: Callable[..., Any], peer: Any) -> None:
    chat = connect(peer, server="vllm", version="0.32")
    explanation = chat.explain(HI, temperature=0.5, guided_choice=["a", "b"], user="ada", stream=True)
    became = {effect.field: effect.became for effect in explanation.fields}
    assert became["temperature"] == ("sent as temperature=0.5",)
    assert became["guided_choice"] == ("sent as structured_outputs={'choice': ['a', 'b']}",)
    assert became["stream"][0] == "sent as stream=True"
    assert [effect.became for effect in explanation.standing] == [("sent as model='stand-in'",)]
    assert not peer.got


def test_defaults_of_a_chat(connect: Callable[..., Any], peer: Any) -> None:
    connect(peer, temperature=0.2)(HI)
    assert peer.body["temperature"] == 0.2
    with pytest.raises(UnsupportedFieldError):
        connect(peer, top_k=3)


def test_the_tokenizer_is_elsewhere(connect: Callable[..., Any], peer: Any) -> None:
    with pytest.raises(RequestError, match="the tokenizer of stand-in is on another server"):
        connect(peer).model.tokenizer.encode("x")
