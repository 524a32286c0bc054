"""A server whose requests other servers answer."""

from __future__ import annotations

from typing import Any

import httpx
import openai
import pytest

from chatplan import Chat, OverloadedError
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.commands import read_settings
from chatplan.adapters.server.loading import load_chat, load_plugins

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
    explained = httpx.post(f"{urls[0]}/v1/chat/completions/explain", json=asked, timeout=30).json()
    effect = next(item for item in explained["fields"] if item["field"] == "top_k")
    assert effect["became"] == ["sent as top_k=5"]
    found = httpx.get(f"{urls[0]}/v1/chat/completions/schema", timeout=30).json()
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
