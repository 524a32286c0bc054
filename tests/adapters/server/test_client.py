"""The official client of OpenAI: its calls, its streams, and which of its errors come up."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import openai
import pytest

from chatplan import AuthenticationError, Chat, Principal, hookimpl

HI: list[Any] = [{"role": "user", "content": "Hi"}]
FIELDS: dict[str, Any] = {"model": "tests/tiny", "messages": HI, "max_tokens": 4, "temperature": 0}


@pytest.fixture
def client(tiny_server: Any) -> Iterator[openai.OpenAI]:
    tiny_server.wait_idle()
    with openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_stream_is_the_whole_answer(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**FIELDS)
    stream = client.chat.completions.create(**FIELDS, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == whole.choices[0].message.content


def test_in_an_event_loop(tiny_server: Any) -> None:
    async def talk() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{tiny_server.url}/v1", api_key="none", max_retries=0) as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(**FIELDS), client.chat.completions.create(**FIELDS, stream=True)
            )
            pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]
            return whole.choices[0].message.content, "".join(pieces)

    whole, streamed = asyncio.run(talk())
    assert whole == streamed


def test_the_raw_response(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(**FIELDS, extra_headers={"X-Request-Id": "raw-1"})
    assert raw.headers["x-request-id"] == "raw-1"
    assert raw.parse().id == "chatcmpl-raw-1"
    assert raw.parse()._request_id == "raw-1"


def test_models(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert client.models.retrieve(model.id) == model


def test_errors_it_knows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**{**FIELDS, "temperature": -1})
    assert (bad.value.param, bad.value.code, bad.value.status_code) == ("temperature", "invalid_value", 400)
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**{**FIELDS, "model": "gpt-4"})
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(**FIELDS, extra_body={"fail": True})


def test_an_error_in_a_stream(serve: Any, slow_chat: Chat) -> None:
    with serve(slow_chat, keep_alive_seconds=0.05) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError) as caught:
            list(client.chat.completions.create(**FIELDS, stream=True, extra_body={"fail": True, "slow": 1}))
        assert caught.value.code == "engine_error"


class Door:
    """A plugin with one key."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        if headers.get("authorization") is None:
            return None
        if headers["authorization"] != "Bearer secret-key":
            raise AuthenticationError("not valid")
        return Principal("ada", requests_per_minute=2, models=frozenset(("tests/tiny",)))


def test_errors_of_access(noon: None, serve: Any, new_chat: Any) -> None:
    with serve(new_chat(plugins=[Door()])) as server:
        url = f"{server.url}/v1"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).chat.completions.create(**FIELDS)
        client = openai.OpenAI(base_url=url, api_key="secret-key", max_retries=0)
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.chat.completions.create(**{**FIELDS, "model": "other"})
        assert 'error="insufficient_scope"' in refused.value.response.headers["www-authenticate"]
        for _ in range(2):
            assert client.chat.completions.create(**FIELDS).usage is not None
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**FIELDS)
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert caught.value.code == "requests_per_minute"
        answer = httpx.get(f"{url}/models", timeout=60)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_credentials")
        assert answer.headers["www-authenticate"].startswith("Bearer")
