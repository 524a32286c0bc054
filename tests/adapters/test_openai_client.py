"""The official client, unchanged, against a server with the real model."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

pytestmark = [pytest.mark.model, pytest.mark.dev_only]
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]


class Weather(BaseModel):
    """The weather at a place."""

    city: Literal["Rome", "Bern"]
    days: int = Field(ge=1, le=9)


WEATHER: list[Any] = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "A forecast.", "parameters": Weather.model_json_schema()},
    }
]


@pytest.fixture(scope="module")
def client(server_url: str) -> Any:
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=f"{server_url}/v1", api_key="none", max_retries=0)


def create(client: Any, **fields: Any) -> Any:
    return client.chat.completions.create(**{"model": "smollm2", "messages": ASK, "max_tokens": 80, **fields})


# --- constraints ------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
GUIDES: list[tuple[dict[str, Any], Callable[[str], bool]]] = [
    ({"guided_json": SCHEMA}, lambda text: json.loads(text)["a"] in (1, 2)),
    ({"guided_json": json.dumps(SCHEMA)}, lambda text: json.loads(text)["a"] in (1, 2)),
    ({"guided_regex": "[0-9]{4}"}, lambda text: len(text) == 4 and text.isdigit()),
    ({"guided_choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
    ({"guided_grammar": 'start: "left" | "right"'}, lambda text: text in ("left", "right")),
    ({"guided_choice": ["yes"], "guided_decoding_backend": "guidance"}, lambda text: text == "yes"),
    ({"guided_json": SCHEMA, "guided_whitespace_pattern": ""}, lambda text: text in ('{"a":1}', '{"a":2}')),
    ({"structured_outputs": {"choice": ["yes"]}}, lambda text: text == "yes"),
]


@pytest.mark.parametrize(("fields", "holds"), GUIDES)
def test_guided_fields_in_the_extra_body(client: Any, fields: dict[str, Any], holds: Callable[[str], bool]) -> None:
    answer = create(client, extra_body=fields)
    assert holds(answer.choices[0].message.content)
    assert answer.choices[0].finish_reason == "stop"


def test_a_response_format(client: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}}
    assert json.loads(create(client, response_format=schema).choices[0].message.content)["a"] in (1, 2)


@pytest.mark.parametrize("beta", [False, True])
def test_parse_into_a_model(client: Any, beta: bool) -> None:
    completions = client.beta.chat.completions if beta else client.chat.completions
    if not hasattr(completions, "parse"):
        pytest.skip("this client has no such method")
    answer = completions.parse(model="smollm2", messages=ASK, response_format=Weather, max_tokens=80)
    assert isinstance(answer.choices[0].message.parsed, Weather)


# --- tools ------------------------------------------------------------------------------------------------------------


def test_parse_calls_into_a_model(client: Any) -> None:
    import openai

    answer = client.chat.completions.parse(
        model="smollm2",
        messages=ASK,
        tools=[openai.pydantic_function_tool(Weather, name="weather")],
        tool_choice="required",
        max_tokens=80,
    )
    call = answer.choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, Weather)
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("tool_calls", None)


def test_the_loop_of_the_documentation(client: Any) -> None:
    messages = [*ASK]
    completion = create(client, messages=messages, tools=WEATHER, tool_choice="required")
    messages.append(completion.choices[0].message)
    for tool_call in completion.choices[0].message.tool_calls:
        arguments = json.loads(tool_call.function.arguments)
        result = f"{arguments['city']}: 22 °C"
        messages.append({"role": "tool", "tool_call_id": tool_call.id, "content": result})
    final = create(client, messages=messages, tools=WEATHER, max_tokens=5)
    assert final.choices[0].message.content
    assert final.choices[0].message.role == "assistant"


def test_deltas_are_put_together_as_documented(client: Any) -> None:
    stream = create(client, tools=WEATHER, tool_choice="required", stream=True)
    final_tool_calls: dict[int, Any] = {}
    reasons = []
    for chunk in stream:
        for tool_call in chunk.choices[0].delta.tool_calls or []:
            index = tool_call.index
            if index not in final_tool_calls:
                final_tool_calls[index] = tool_call
            else:
                final_tool_calls[index].function.arguments += tool_call.function.arguments
        reasons.append(chunk.choices[0].finish_reason)
    assert list(final_tool_calls) == [0]
    call = final_tool_calls[0]
    assert (call.type, call.function.name, bool(call.id)) == ("function", "weather", True)
    Weather.model_validate_json(call.function.arguments)
    assert reasons[-1] == "tool_calls"
    assert set(reasons[:-1]) == {None}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_the_helper_for_streams(client: Any, choice: Any) -> None:
    fields: dict[str, Any] = {"model": "smollm2", "messages": ASK, "max_tokens": 80}
    with client.chat.completions.stream(tools=WEATHER, tool_choice=choice, **fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.delta" in kinds
    assert kinds.count("tool_calls.function.arguments.done") == 1
    Weather.model_validate_json(final.choices[0].message.tool_calls[0].function.arguments)
    with client.chat.completions.stream(response_format=Weather, **fields) as stream:
        assert "content.delta" in [event.type for event in stream]
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Weather)


def test_usage_at_the_end_of_a_stream(client: Any) -> None:
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}, max_tokens=3))
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 3)


# --- errors -----------------------------------------------------------------------------------------------------------

BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1}, "temperature"),
    ({"extra_body": {"guided_regex": "("}}, "guided_regex"),
    ({"extra_body": {"guided_jsn": {}}}, "guided_jsn"),
    ({"tools": [*WEATHER, *WEATHER]}, "tools[1].function.name"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": WEATHER, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
    ({"tools": WEATHER, "tool_choice": "required", "extra_body": {"guided_choice": ["a"]}}, "tool_choice"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"reasoning_effort": "high"}, "reasoning_effort"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), BAD)
def test_bad_fields_are_named(client: Any, fields: dict[str, Any], param: str, stream: bool) -> None:
    import openai

    with pytest.raises(openai.BadRequestError) as caught:
        create(client, stream=stream, **fields)
    assert caught.value.param == param
    assert caught.value.status_code == 400


def test_an_unknown_model(client: Any) -> None:
    import openai

    with pytest.raises(openai.NotFoundError) as caught:
        create(client, model="gpt-4")
    assert caught.value.param == "model"
