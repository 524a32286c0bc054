"""The OpenAPI document: it is valid, it has every field, and what it allows is never answered by a failure."""

from __future__ import annotations

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


def test_the_document_is_served(http: httpx.Client) -> None:
    assert http.get("/openapi.json").json()["openapi"].startswith("3.1")


@pytest.mark.slow
@pytest.mark.parametrize("path", [*API, *PROBES])
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_nothing_makes_the_server_fail(short_server: Any, path: str, mode: str) -> None:
    """Requests that the document allows, and such that it does not."""
    schema = schemathesis.openapi.from_url(f"{short_server.url}/openapi.json")
    (method,) = (API | PROBES)[path]
    operation = schema[path][method.upper()]

    @settings(max_examples=25, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
    def call(case: Any) -> None:
        answer = case.call(base_url=short_server.url, timeout=60)
        assert answer.status_code < 500, answer.text

    try:
        call()
    except Unsatisfiable:
        assert mode == "negative"  # of a route that takes nothing, nothing is wrong


@pytest.fixture(scope="module")
def short_server(serve: Any, new_chat: Any) -> Iterator[Any]:
    """Its answers are short, whatever is asked for."""
    with serve(new_chat(max_model_len=64)) as server:
        yield server
