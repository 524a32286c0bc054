"""A server whose requests other servers answer."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest
from transformers import LogitsProcessor

from chatplan import AuthenticationError, Chat, OverloadedError, Stage, hookimpl
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.commands import read_settings
from chatplan.adapters.server.loading import load_chat, load_plugins
from chatplan.adapters.server.upstream import own, upstream_chat
from chatplan.errors import ChatplanError, EngineError, PermissionDeniedError

USER: Any = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def urls(serve: Any, new_chat: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two servers, the one before the other; the second has the model."""
    monkeypatch.delenv("CHATPLAN_MODEL", raising=False)  # which names the tests' checkpoint, and is a setting as well
    chat: Chat = new_chat()
    with serve(chat) as behind:
        settings = ServerSettings(upstream={"urls": [behind.url]}, max_total_tokens=100)
        front = load_chat(settings, load_plugins(settings))
        with serve(front, max_total_tokens=100) as before:
            yield before.url, behind.url
        front.close()


def test_request_goes_through(urls: Any) -> None:
    front, behind = (openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) for url in urls)
    asked: Any = {"model": front.models.list().data[0].id, "messages": USER, "max_tokens": 6, "seed": 3}
    one, other = (client.chat.completions.create(**asked) for client in (front, behind))
    assert one.choices[0].message.content == other.choices[0].message.content
    assert one.usage == other.usage
    stream = front.chat.completions.create(**asked, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == one.choices[0].message.content


def test_requests_are_explained_and_described(urls: Any) -> None:
    asked = {"messages": USER, "top_k": 5}
    explained = httpx.post(f"{urls[0]}/v1/chat/completions/explain", json=asked, timeout=60).json()
    effect = next(item for item in explained["fields"] if item["field"] == "top_k")
    assert effect["became"] == ["sent as top_k=5"]
    found = httpx.get(f"{urls[0]}/v1/chat/completions/schema", timeout=60).json()
    assert found["x-engine"] == "remote"
    assert "temperature" in found["properties"]


def test_limits_hold_without_a_prompt(urls: Any) -> None:
    client = openai.OpenAI(base_url=f"{urls[0]}/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    over: list[Any] = [{}, {"max_tokens": 60, "n": 2}]
    for asked in over:
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=model, messages=USER, **asked)
        assert caught.value.param == "max_tokens"
        assert caught.value.code == "limit_exceeded"


def test_flags_and_variables_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPLAN_UPSTREAM__API_KEY", "secret")
    found = read_settings(["--upstream.urls", "http://a:1,http://b:2", "--upstream.kind", "vllm"]).upstream
    assert found.urls == ["http://a:1", "http://b:2"]
    assert (found.kind, found.timeout) == ("vllm", 600)
    assert found.api_key is not None
    assert found.api_key.get_secret_value() == "secret"
    assert "secret" not in repr(found)


def test_nobody_there() -> None:
    settings = ServerSettings(upstream={"urls": ["http://127.0.0.1:9"]})
    with pytest.raises(OverloadedError):
        load_chat(settings, load_plugins(settings))


@pytest.mark.parametrize("kind", ["vllm", "tgi"])
def test_each_setting_goes_to_the_servers_behind(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("chatplan.adapters.connect.connect", lambda urls, **others: given.update(others, urls=urls))
    up = {"urls": ["http://a:1", "http://b:2"], "kind": kind, "api_key": "k", "headers": {"x": "y"}, "timeout": 7,
          "retries": 5}  # fmt: skip
    upstream_chat(ServerSettings(upstream=up, model="m", served_model_name="n,o", defaults={"top_k": 3}, max_stop=9,
                                 plugins=["a.b"], disable=["c"]))  # fmt: skip
    common = {"urls": up["urls"], "server": kind, "api_key": "k", "headers": {"x": "y"}, "timeout": 7, "top_k": 3,
              "max_stop": 9, "plugins": ["a.b"], "disable": ["c"]}  # fmt: skip
    names = {"tokenizer": "m", "served_model_name": "n", "retries": 5}
    assert given == {**common, **(names if kind == "tgi" else {"model": "m", "max_retries": 5})}


def test_servers_behind_are_asked_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr("chatplan.adapters.connect.connect", lambda urls, **others: given.update(others))
    asked: list[Any] = []
    for found, kind in ((True, "tgi"), (False, "auto")):

        def is_tgi(*what: Any, found: bool = found) -> bool:
            asked.append(what)
            return found

        monkeypatch.setattr("chatplan.adapters.connect.is_tgi", is_tgi)
        upstream_chat(ServerSettings(upstream={"urls": ["http://a:1"], "api_key": "k", "headers": {"x": "y"}}))
        assert given["server"] == kind
        assert given["api_key"] == "k"
    assert asked == [(["http://a:1"], "k", {"x": "y"})] * 2


def test_settings_of_the_servers_behind() -> None:
    assert read_settings(["--upstream.urls", '["http://a:1", "http://b:2 "]']).upstream.urls == [
        "http://a:1",
        "http://b:2",
    ]
    wrongs: list[dict[str, Any]] = [{"timeout": 0}, {"retries": -1}, {"kind": "other"}, {"url": "http://a:1"}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ServerSettings(upstream=wrong)
    assert ServerSettings(upstream={"retries": 0}).upstream.retries == 0


@pytest.mark.parametrize("kind", [AuthenticationError, PermissionDeniedError])
def test_a_credential_that_the_servers_behind_refuse_is_not_the_askers(kind: type[ChatplanError]) -> None:
    refused = own(kind("not yours"))
    assert (type(refused), refused.code, refused.status) == (EngineError, "upstream_unauthorized", 500)
    assert isinstance(refused.__cause__, kind)
    busy = OverloadedError("busy")
    assert own(busy) is busy


@pytest.mark.parametrize("stream", [False, True])
def test_such_a_refusal_is_a_failure_of_this_server(serve: Any, new_chat: Any, ask: Any, stream: bool) -> None:
    class Refuse(LogitsProcessor):
        def __call__(self, input_ids: Any, scores: Any) -> Any:
            raise AuthenticationError("the key of this server")

    class Refuses:
        @hookimpl
        def logits_processors(self) -> Any:
            return [(Stage.BIAS, Refuse())]

    with serve(new_chat(plugins=[Refuses()])) as server, server.client() as client:
        answer = ask(client, stream=stream)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "upstream_unauthorized")
    assert "www-authenticate" not in answer.headers
    assert "key" not in answer.text
