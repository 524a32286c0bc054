"""chatplan's own server in front of a TGI server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from starlette.responses import Response

from chatplan import Chat

pytest.importorskip("pydantic_settings", reason="the server's packages come with an extra")
openai = pytest.importorskip("openai")

if TYPE_CHECKING:
    from tests.adapters.tgi.conftest import StandIn

USER: Any = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def client(serve: Any, server: StandIn, checkpoint: str) -> Iterator[Any]:
    from chatplan.adapters.server import ServerSettings
    from chatplan.adapters.server.loading import load_chat, load_plugins

    settings = ServerSettings(model=checkpoint, served_model_name=["tests/tiny"], upstream={"urls": [server.url]})
    chat = load_chat(settings, load_plugins(settings))
    with serve(chat) as running:
        yield openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0)
    chat.close()


def test_answer_and_stream(client: Any, tgi: StandIn, here: Chat) -> None:
    asked = {"model": "tests/tiny", "messages": USER, "temperature": 0, "max_tokens": 8}
    expected = here(USER, temperature=0, max_tokens=8)
    answer = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == expected.text
    assert answer.usage.total_tokens == expected.usage.total_tokens
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected.text


def test_credential_that_is_not_taken_behind_is_no_fault_of_the_sender(client: Any, tgi: StandIn) -> None:
    for stream in (False, True):
        tgi.answers.append(lambda: Response(status_code=401))
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="tests/tiny", messages=USER, max_tokens=2, stream=stream)
        assert caught.value.code == "upstream_unauthorized"


def test_refusal_names_the_field(client: Any, tgi: StandIn) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tests/tiny", messages=USER, extra_body={"min_p": 0.2})
    assert caught.value.param == "min_p"
    assert not tgi.sent
