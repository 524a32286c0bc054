"""The rules between the fields of a request, and what a refusal says."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan.errors import RequestError
from chatplan.request import ChatCompletionRequest, parse_request
from chatplan.request_rules import shown

TOOLS = [{"type": "function", "function": {"name": "weather"}}]
NAMED = {"type": "function", "function": {"name": "weather"}}
SCHEMA = {"name": "city", "schema": {"type": "object"}}
JSON_FORMAT = {"type": "json_schema", "json_schema": SCHEMA}


def parse(**fields: Any) -> ChatCompletionRequest:
    return parse_request({"messages": [{"role": "user", "content": "Hi"}], **fields})


def refused(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(**fields)
    return caught.value


# --- rules between fields ---------------------------------------------------------------------------------------------

ALLOWED_TOGETHER: list[dict[str, Any]] = [
    {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    {"stream": True, "prompt_logprobs": 0},
    {"prompt_logprobs": -1},
    {"top_logprobs": 0},
    {"logprobs": True, "top_logprobs": -1},
    {"min_tokens": 5, "max_tokens": 5},
    {"min_tokens": 7, "max_tokens": 5, "max_completion_tokens": 7},
    {"best_of": 3, "n": 2},
    {"best_of": 2, "n": 2, "stream": True},
    {"best_of": 3, "n": 2, "stream": True, "use_beam_search": True},
    {"continue_final_message": True, "add_generation_prompt": False},
    {"length_penalty": 1.0},
    {"length_penalty": 0.5, "early_stopping": "never", "use_beam_search": True},
    {"guided_json": {}, "response_format": {"type": "text"}},
    {"tools": TOOLS, "tool_choice": "required"},
    {"tools": TOOLS, "tool_choice": NAMED},
    {"tool_choice": "none"},
    {"tools": [], "tool_choice": "none"},
]
NOT_TOGETHER: list[tuple[dict[str, Any], str, str]] = [
    ({"stream_options": {}}, "stream_options", "stream=true"),
    ({"stream_options": {}, "stream": False}, "stream_options", "stream=true"),
    (
        {"stream": True, "stream_options": {"include_usage": False, "continuous_usage_stats": True}},
        "stream_options",
        "include_usage=true",
    ),
    ({"stream": True, "prompt_logprobs": 2}, "prompt_logprobs", "stream=true, got 2"),
    ({"stream": True, "prompt_logprobs": -1}, "prompt_logprobs", "stream=true, got -1"),
    ({"top_logprobs": 3}, "top_logprobs", "logprobs=true, got 3"),
    ({"top_logprobs": -1, "logprobs": False}, "top_logprobs", "logprobs=true, got -1"),
    ({"min_tokens": 6, "max_tokens": 5}, "min_tokens", "at most max_tokens=5, got 6"),
    (
        {"min_tokens": 6, "max_tokens": 9, "max_completion_tokens": 5},
        "min_tokens",
        "at most max_completion_tokens=5, got 6",
    ),
    ({"best_of": 1, "n": 2}, "best_of", "at least n=2, got 1"),
    ({"best_of": 1, "n": 2, "use_beam_search": True}, "best_of", "at least n=2, got 1"),
    ({"best_of": 3, "n": 2, "stream": True}, "best_of", "equal n=2 with stream=true, got 3"),
    ({"continue_final_message": True}, "continue_final_message", "add_generation_prompt=false"),
    (
        {"continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "add_generation_prompt=false",
    ),
    ({"stop": ""}, "stop", "empty string"),
    ({"stop": ["a", ""]}, "stop", "empty string, got ['a', '']"),
    ({"length_penalty": 0.5}, "length_penalty", "use_beam_search=true, got 0.5"),
    ({"early_stopping": False}, "early_stopping", "use_beam_search=true, got False"),
    ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "got guided_json, guided_regex"),
    ({"guided_choice": ["a"], "guided_grammar": "g"}, "guided_grammar", "got guided_choice, guided_grammar"),
    (
        {"guided_grammar": "g", "structured_outputs": {"regex": "a"}},
        "structured_outputs",
        "got guided_grammar, structured_outputs",
    ),
    (
        {"guided_json": {}, "response_format": {"type": "json_object"}},
        "response_format",
        "got guided_json, response_format",
    ),
    (
        {"structured_outputs": {"regex": "a"}, "response_format": JSON_FORMAT},
        "response_format",
        "got structured_outputs, response_format",
    ),
    ({"response_format": {"type": "json_schema"}}, "response_format", "needs the key json_schema"),
    (
        {"response_format": {"type": "text", "json_schema": SCHEMA}},
        "response_format",
        "type text has no key json_schema",
    ),
    ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "it has regex, choice"),
    ({"structured_outputs": {}}, "structured_outputs", "it has none"),
    ({"tool_choice": "auto"}, "tool_choice", "needs tools, got 'auto'"),
    ({"tool_choice": "required", "tools": []}, "tool_choice", "needs tools, got 'required'"),
    ({"tool_choice": NAMED}, "tool_choice", "needs tools, got 'weather'"),
    (
        {"tools": TOOLS, "tool_choice": {"function": {"name": "time"}}},
        "tool_choice",
        "one of the tools weather, got 'time'",
    ),
]


@pytest.mark.parametrize("fields", ALLOWED_TOGETHER, ids=str)
def test_allowed_together(fields: dict[str, Any]) -> None:
    asked = {name for name, value in fields.items() if value not in ([], {"type": "text"})}
    assert asked <= parse(**fields).model_fields_set


@pytest.mark.parametrize(("fields", "param", "words"), NOT_TOGETHER, ids=[str(case[0]) for case in NOT_TOGETHER])
def test_not_together(fields: dict[str, Any], param: str, words: str) -> None:
    error = refused(**fields)
    assert error.param == param
    assert words in error.message


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, "none"),
        ({"tools": []}, "none"),
        ({"tools": TOOLS}, "auto"),
        ({"tools": TOOLS, "tool_choice": None}, "auto"),
        ({"tools": TOOLS, "tool_choice": "none"}, "none"),
    ],
)
def test_tool_choice_is_auto_when_there_are_tools(fields: dict[str, Any], choice: str) -> None:
    assert parse(**fields).tool_choice == choice


# --- what a refusal says ----------------------------------------------------------------------------------------------

TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"n": 21}, "n: should be less than or equal to 20, got 21"),
    ({"temperature": "hot"}, "temperature: should be a valid number, got 'hot'"),
    ({"temperature": float("nan")}, "temperature: should be a finite number, got nan"),
    ({"max_tokens": True}, "max_tokens: should be a valid integer, got True"),
    ({"messages": []}, "messages: should not be empty, got []"),
    ({"messages": "Hi"}, "messages: should be a list, got 'Hi'"),
    ({"stop": 5}, "stop: should be a string or a list of strings, got 5"),
    ({"stop": ["a", 5]}, "stop[1]: should be a string, got 5"),
    ({"stream": "maybe"}, "stream: should be true or false, got 'maybe'"),
    ({"logit_bias": {"x": 1}}, "logit_bias.x: key should be a token id, a whole number from 0, got 'x'"),
    ({"stream_options": {"usage": 1}}, "stream_options.usage: is not a known key, got 1"),
    ({"guided_json": 5}, "guided_json: should be an object, or a string that holds one, got 5"),
    ({"early_stopping": "x"}, "early_stopping: should be True, False or 'never', got 'x'"),
    ({"tool_choice": "any"}, "tool_choice: should be 'none', 'auto' or 'required', got 'any'"),
    ({"tools": [{"function": {}}]}, "tools[0].function.name: is required"),
    (
        {"n": 0, "top_p": 2},
        "n: should be greater than or equal to 1, got 0; top_p: should be less than or equal to 1, got 2",
    ),
]


@pytest.mark.parametrize(("fields", "text"), TEXTS, ids=[str(case[0]) for case in TEXTS])
def test_text(fields: dict[str, Any], text: str) -> None:
    assert str(refused(**fields)) == text


@pytest.mark.parametrize("data", [3, "Hi", [], None])
def test_what_is_no_object(data: Any) -> None:
    with pytest.raises(RequestError, match=r"^should be an object, got ") as caught:
        parse_request(data)
    assert caught.value.param is None


def test_long_values_are_shortened() -> None:
    error = refused(temperature="x" * 10_000)
    assert len(error.message) < 120
    error = refused(temperature=[{"k" * 50: "v" * 50}] * 100)
    assert len(error.message) < 120


@pytest.mark.parametrize(("length", "whole"), [(58, True), (59, False), (200, False)])
def test_a_value_is_shown_in_sixty_characters(length: int, whole: bool) -> None:
    text = shown("x" * length)
    assert len(text) == (length + 2 if whole else 60)
    assert (text == repr("x" * length)) == whole


def test_five_errors_are_told_in_full() -> None:
    error = refused(n=0, top_p=2, min_p=2, best_of=0, top_k=-5)
    assert error.message.count(";") == 4
    assert "more" not in error.message
    six = refused(n=0, top_p=2, min_p=2, best_of=0, top_k=-5, priority="x")
    assert (six.message.count(";"), six.message.endswith("; and 1 more")) == (5, True)


def test_many_errors_are_counted() -> None:
    error = refused(n=0, top_p=2, min_p=2, best_of=0, seed="x", top_k=-5, priority="x")
    assert error.param == "n"
    assert error.message.endswith("; and 2 more")


def test_braces_in_a_value_do_not_break_the_message() -> None:
    error = refused(stop=["{param}", "{x}", ""])
    assert "['{param}', '{x}', '']" in error.message


def test_huge_values_and_keys_are_told_too() -> None:
    assert refused(n=10**5000).message.endswith("got a huge number")
    error = refused(stream=True, stream_options={"k" * 1000: 1})
    assert error.param == "stream_options." + "k" * 60
