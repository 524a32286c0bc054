"""The OpenAPI document: it is valid, it has every field, and what it allows is never answered by a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode

from chatplan import Chat, ChatCompletionRequest, Principal, hookimpl
from chatplan.adapters.server import ServerSettings, create_app

API = {
    "/v1/chat/completions": {"post"},
    "/v1/chat/completions/explain": {"post"},
    "/v1/chat/completions/schema": {"get"},
    "/v1/models": {"get"},
    "/v1/models/{model}": {"get"},
    "/tokenize": {"post"},
    "/detokenize": {"post"},
}
PROBES = {"/health": {"get"}, "/live": {"get"}, "/version": {"get"}, "/metrics": {"get"}}


@pytest.fixture(scope="module")
def document(slow_chat: Chat) -> dict[str, Any]:
    return create_app(slow_chat, ServerSettings()).openapi()


def test_every_route_is_there(document: dict[str, Any]) -> None:
    assert {path: set(item) for path, item in document["paths"].items()} == API | PROBES


def test_every_field_of_a_request_is_there(document: dict[str, Any]) -> None:
    schema = document["components"]["schemas"]["ChatCompletionRequest"]
    assert set(schema["properties"]) == {*ChatCompletionRequest.model_fields, "force", "slow", "fail"}
    for name in ChatCompletionRequest.model_fields:
        assert schema["properties"][name].get("description"), name
        assert schema["properties"][name]["x-plugins"], name
    assert schema["properties"]["temperature"]["x-group"] == "sampling"
    assert schema["additionalProperties"] is False
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/ChatCompletionRequest"}


def test_answers_are_there(document: dict[str, Any]) -> None:
    answers = document["paths"]["/v1/chat/completions"]["post"]["responses"]
    assert set(answers["200"]["content"]) == {"application/json", "text/event-stream"}
    assert answers["200"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatCompletion")
    for status in ("400", "401", "403", "404", "413", "415", "429", "500", "503", "504"):
        assert answers[status]["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorBody")


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, Mapping):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for item in node.values():
                yield from references(item)
        elif isinstance(node, list):
            for item in node:
                yield from references(item)

    found = set(references(document))
    assert found
    assert found <= {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}


def test_credentials_are_there(document: dict[str, Any], new_chat: Any) -> None:
    class Door:
        @hookimpl
        def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
            return None

    schemes = document["components"]["securitySchemes"]
    assert {(item["type"], item.get("name", item.get("scheme"))) for item in schemes.values()} == {
        ("http", "bearer"), ("apiKey", "x-api-key"), ("apiKey", "token")}  # fmt: skip
    guarded = create_app(new_chat(plugins=[Door()]), ServerSettings()).openapi()
    for path, methods in API.items():
        for method in methods:
            needed: list[Any] = [{"bearer": []}, {"api_key": []}, {"token": []}]
            assert guarded["paths"][path][method]["security"] == needed
            assert document["paths"][path][method]["security"] == [{}, *needed]


def test_metrics_want_a_credential_only_where_they_ask(new_chat: Any) -> None:
    for wanted in (False, True):
        found = create_app(new_chat(), ServerSettings(metrics_auth=wanted)).openapi()
        assert ("security" in found["paths"]["/metrics"]["get"]) == wanted
        assert "security" not in found["paths"]["/health"]["get"]


def test_nobody_is_asked_where_the_settings_say_so(new_chat: Any) -> None:
    class Door:
        @hookimpl
        def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
            return None

    found = create_app(new_chat(plugins=[Door()]), ServerSettings(no_auth=True)).openapi()
    assert {} in found["paths"]["/v1/models"]["get"]["security"]


def test_the_id_of_a_request_is_there(document: dict[str, Any]) -> None:
    for path in ("/v1/chat/completions", "/v1/chat/completions/explain", "/tokenize", "/detokenize"):
        (parameter,) = document["paths"][path]["post"]["parameters"]
        assert (parameter["name"], parameter["in"], parameter["required"]) == ("X-Request-Id", "header", False)
        assert (parameter["schema"]["minLength"], parameter["schema"]["maxLength"]) == (1, 200)


def test_the_document_is_made_anew_until_the_model_is_there(slow_chat: Chat) -> None:
    app = create_app(lambda: slow_chat, ServerSettings())
    fields = app.openapi()["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert "temperature" in fields
    assert "slow" not in fields
    asyncio.run(app.state.service.load())
    assert "slow" in app.openapi()["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert app.openapi() is app.openapi()


def test_the_page_for_people_may_be_left_out(slow_chat: Chat) -> None:
    async def status(**settings: Any) -> int:
        transport = httpx.ASGITransport(create_app(slow_chat, ServerSettings(**settings)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8000") as client:
            return (await client.get("/playground")).status_code

    assert asyncio.run(status()) == 200
    assert asyncio.run(status(playground=False)) == 404


def test_the_document_is_served(http: httpx.Client) -> None:
    assert http.get("/openapi.json").json()["openapi"].startswith("3.1")


@pytest.mark.slow
@pytest.mark.parametrize("path", [*API, *PROBES])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_nothing_makes_the_server_fail(short_server: Any, schema: Any, path: str, mode: str) -> None:
    """Requests that the document allows, and such that it does not."""
    (method,) = (API | PROBES)[path]
    operation = schema[path][method.upper()]
    examples = 3 if path.endswith("/explain") else 10  # it takes what the route beside it takes

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def call(case: Any) -> None:
        answer = case.call(base_url=short_server.url, timeout=60)
        assert answer.status_code < 500, answer.text

    try:
        call()
    except Unsatisfiable:
        assert mode == "negative"  # of a route that takes nothing, nothing is wrong


@pytest.fixture(scope="module")
def schema(short_server: Any) -> Any:
    return schemathesis.openapi.from_url(f"{short_server.url}/openapi.json")


@pytest.fixture(scope="module")
def short_server(serve: Any, new_chat: Any) -> Iterator[Any]:
    """Its answers are short, whatever is asked for."""
    with serve(new_chat(max_model_len=64)) as server:
        yield server
