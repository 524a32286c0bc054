"""The request model: its fields and their ranges, null, and what plugins do with the class."""

from __future__ import annotations

import copy
import json
from typing import Any

import pydantic
import pytest

from chatplan.errors import RequestError
from chatplan.request import ChatCompletionRequest, parse_request

MESSAGES = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]
SCHEMA = {"name": "city", "schema": {"type": "object"}}
NAMED = {"type": "function", "function": {"name": "weather"}}
JSON_FORMAT = {"type": "json_schema", "json_schema": SCHEMA}

# fmt: off
PUBLISHED = [
    "messages", "model", "frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "max_tokens",
    "max_completion_tokens", "n", "presence_penalty", "response_format", "seed", "stop", "stream", "stream_options",
    "temperature", "top_p", "tools", "tool_choice", "parallel_tool_calls", "user", "best_of", "use_beam_search",
    "top_k", "min_p", "repetition_penalty", "length_penalty", "stop_token_ids", "include_stop_str_in_output",
    "ignore_eos", "min_tokens", "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens",
    "prompt_logprobs", "echo", "add_generation_prompt", "continue_final_message", "add_special_tokens", "documents",
    "chat_template", "chat_template_kwargs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
    "guided_decoding_backend", "guided_whitespace_pattern", "priority", "request_id",
]
NEWER = [
    "structured_outputs", "reasoning_effort", "include_reasoning", "thinking_token_budget", "allowed_token_ids",
    "bad_words", "return_token_ids", "return_tokens_as_token_ids", "cache_salt", "early_stopping",
]
# fmt: on
DEFAULTS: dict[str, Any] = {
    "frequency_penalty": 0.0,
    "logprobs": False,
    "n": 1,
    "presence_penalty": 0.0,
    "stop": [],
    "stream": False,
    "top_p": 1.0,
    "tool_choice": "none",
    "parallel_tool_calls": False,
    "use_beam_search": False,
    "top_k": -1,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "length_penalty": 1.0,
    "stop_token_ids": [],
    "include_stop_str_in_output": False,
    "ignore_eos": False,
    "min_tokens": 0,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "echo": False,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "add_special_tokens": False,
    "priority": 0,
    "include_reasoning": True,
    "bad_words": [],
    "return_token_ids": False,
    "return_tokens_as_token_ids": False,
}
# What a field needs beside it before it is allowed to be set.
BESIDE: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "length_penalty": {"use_beam_search": True},
    "early_stopping": {"use_beam_search": True},
    "stream_options": {"stream": True},
    "continue_final_message": {"add_generation_prompt": False},
    "best_of": {"n": 1},
    "tool_choice": {"tools": TOOLS},
}
NAN, INF = float("nan"), float("inf")


def parse(**fields: Any) -> ChatCompletionRequest:
    return parse_request({"messages": MESSAGES, **fields})


def refused(**fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(**fields)
    return caught.value


# --- the set of fields ------------------------------------------------------------------------------------------------


def test_the_fields_are_the_published_ones_in_their_order_and_then_the_newer() -> None:
    assert len(PUBLISHED) == 50
    assert list(ChatCompletionRequest.model_fields) == PUBLISHED + NEWER


@pytest.mark.parametrize("name", [*PUBLISHED[1:-1], *NEWER])
def test_default(name: str) -> None:
    assert getattr(parse(), name) == DEFAULTS.get(name)


def test_request_id_is_random_when_absent() -> None:
    first, second = parse().request_id, parse().request_id
    assert len(first) == 32
    assert first != second


def test_only_messages_is_required() -> None:
    assert ChatCompletionRequest.model_json_schema()["required"] == ["messages"]
    with pytest.raises(RequestError, match=r"^messages: is required$"):
        parse_request({})


@pytest.mark.parametrize("name", PUBLISHED + NEWER)
def test_every_field_has_one_sentence_of_description(name: str) -> None:
    description = ChatCompletionRequest.model_fields[name].description
    assert description
    assert description[0].isupper() or description.startswith("null")
    assert len(description) > 25


@pytest.mark.parametrize("name", [name for name in PUBLISHED + NEWER if name != "messages"])
def test_json_schema_says_that_null_is_allowed(name: str) -> None:
    property_ = ChatCompletionRequest.model_json_schema()["properties"][name]
    assert {"type": "null"} in property_["anyOf"]
    assert property_["description"]


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("n", {"minimum": 1, "maximum": 20}),
        ("frequency_penalty", {"minimum": -2, "maximum": 2}),
        ("top_p", {"exclusiveMinimum": 0, "maximum": 1}),
        ("temperature", {"minimum": 0}),
        ("max_tokens", {"minimum": 1}),
        ("top_logprobs", {"minimum": -1}),
        ("seed", {"minimum": -(2**63), "maximum": 2**63 - 1}),
        ("top_k", {"minimum": -1}),
    ],
)
def test_json_schema_says_the_range(name: str, limits: dict[str, float]) -> None:
    number = ChatCompletionRequest.model_json_schema()["properties"][name]["anyOf"][0]
    assert {key: number[key] for key in limits} == limits


def test_json_schema_examples_are_valid() -> None:
    properties = ChatCompletionRequest.model_json_schema()["properties"]
    for name, property_ in properties.items():
        for example in property_.get("examples", []):
            given = parse(**{**BESIDE.get(name, {}), name: example}).given()
            assert name in given


# --- each field by itself ---------------------------------------------------------------------------------------------

RANGES: list[tuple[str, list[Any], list[Any]]] = [
    ("model", ["m"], [3, ["m"]]),
    ("frequency_penalty", [-2, -2.0, 0, 2], [-2.01, 2.01, True, "1", NAN, INF]),
    ("presence_penalty", [-2, -2.0, 0, 2], [-2.01, 2.01, True, "1", NAN, INF]),
    (
        "logit_bias",
        [{}, {"0": 1}, {7: -1.5}],
        [{"x": 1}, {"-1": 1}, {"1.5": 1}, {"1": "2"}, {"1": NAN}, {"1": True}, 3],
    ),
    ("logprobs", [True, False], ["maybe", 2]),
    ("top_logprobs", [-1, 0, 1, 500, 2.0], [-2, 1.5, True, "1"]),
    ("max_tokens", [1, 10**9, 3.0], [0, -1, 1.5, True, "3", NAN, INF]),
    ("max_completion_tokens", [1, 10**9, 3.0], [0, -1, 1.5, True, "3", NAN, INF]),
    ("n", [1, 20, 2.0], [0, 21, 1.5, True, "2"]),
    ("response_format", [{"type": "json_object"}], [{"type": "xml"}, {}, "text", 1]),
    ("seed", [-(2**63), 0, 2**63 - 1], [2**63, -(2**63) - 1, 1.5, True, "1"]),
    ("stop", ["a", [], ["a", "b"], ["x"] * 50], [1, [1], {"a": 1}, "", ["a", ""]]),
    ("stream", [True, False], ["maybe", 2]),
    ("stream_options", [{}, {"include_usage": False}, {"continuous_usage_stats": True}], [{"usage": True}, True, []]),
    ("temperature", [0, 0.0, 1e-6, 2, 100.0], [-0.01, True, "1", NAN, INF]),
    ("top_p", [1e-9, 1, 1.0], [0, 1.01, -1, True, "1", NAN]),
    ("tools", [TOOLS], [{}, [{}], [{"function": {}}], [{"function": {"name": ""}}], [{"type": "x"}], "weather"]),
    ("tool_choice", ["none", "auto", "required"], ["any", 1, {}, {"function": {}}, {"type": "function"}]),
    ("parallel_tool_calls", [True, False], ["maybe", 2]),
    ("user", ["u"], [1]),
    ("best_of", [1, 20, 100], [0, 1.5, True, "2"]),
    ("use_beam_search", [True, False], ["maybe", 2]),
    ("top_k", [-1, 0, 1, 10**6], [-2, 1.5, True, "1"]),
    ("min_p", [0, 0.5, 1], [-0.01, 1.01, True, "1", NAN]),
    ("repetition_penalty", [1e-9, 1, 2.5], [0, -1, True, "1", NAN, INF]),
    ("length_penalty", [-1, 0, 1, 2.5], [True, "1", NAN, INF]),
    ("stop_token_ids", [[], [0, 1]], [[-1], ["1"], [True], [1.5], 1]),
    ("include_stop_str_in_output", [True, False], ["maybe", 2]),
    ("ignore_eos", [True, False], ["maybe", 2]),
    ("min_tokens", [0, 1], [-1, 1.5, True, "1"]),
    ("skip_special_tokens", [True, False], ["maybe", 2]),
    ("spaces_between_special_tokens", [True, False], ["maybe", 2]),
    ("truncate_prompt_tokens", [1, 5], [0, -1, 1.5, True, "1"]),
    ("prompt_logprobs", [-1, 0, 1, 500], [-2, 1.5, True, "1"]),
    ("echo", [True, False], ["maybe", 2]),
    ("add_generation_prompt", [True, False], ["maybe", 2]),
    ("continue_final_message", [True, False], ["maybe", 2]),
    ("add_special_tokens", [True, False], ["maybe", 2]),
    ("documents", [[], [{"title": "a", "text": "b"}]], [{}, [{"title": 1}], ["a"]]),
    ("chat_template", ["{{ messages }}"], [1, {}]),
    ("chat_template_kwargs", [{}, {"enable_thinking": False, "k": None}], ["x", []]),
    ("guided_json", [{"type": "object"}, "{}", {}], [1, [], True]),
    ("guided_regex", ["a+"], [1, []]),
    ("guided_choice", [["a"], ["a", "b"]], [[], "a", [1]]),
    ("guided_grammar", ['start: "a"'], [1, {}]),
    ("guided_decoding_backend", ["outlines"], [1]),
    ("guided_whitespace_pattern", ["[ ]?"], [1]),
    ("priority", [-1, 0, 1], [1.5, True, "1"]),
    ("request_id", ["abc"], ["", 1]),
    ("structured_outputs", [{"regex": "a"}, {"json_object": True}], [{}, {"xml": 1}, {"json_object": False}, "a"]),
    ("reasoning_effort", ["none", "minimal", "low", "medium", "high", "xhigh", "max"], ["huge", 1]),
    ("include_reasoning", [True, False], ["maybe", 2]),
    ("thinking_token_budget", [-1, 0, 100], [-2, 1.5, True, "1"]),
    ("allowed_token_ids", [[0], [1, 2]], [[], [-1], ["1"], 1]),
    ("bad_words", [[], ["a"]], [[""], [1], "a"]),
    ("return_token_ids", [True, False], ["maybe", 2]),
    ("return_tokens_as_token_ids", [True, False], ["maybe", 2]),
    ("cache_salt", ["s"], ["", 1]),
    ("early_stopping", [True, False, "never"], ["always", 2]),
]


def test_the_ranges_cover_every_field() -> None:
    assert {name for name, _, _ in RANGES} == {*PUBLISHED, *NEWER} - {"messages"}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, good, _ in RANGES for value in good])
def test_allowed(name: str, value: Any) -> None:
    assert name in parse(**{**BESIDE.get(name, {}), name: value}).model_fields_set


@pytest.mark.parametrize(("name", "value"), [("response_format", {"type": "text"}), ("tools", []), ("top_p", None)])
def test_what_asks_for_nothing_is_not_given(name: str, value: Any) -> None:
    """Clients send these by default."""
    request = parse(**{name: value})
    assert name not in request.model_fields_set
    assert getattr(request, name) == type(request).model_fields[name].default


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, _, bad in RANGES for value in bad])
def test_refused(name: str, value: Any) -> None:
    error = refused(**{**BESIDE.get(name, {}), name: value})
    assert error.param is not None
    assert error.param.partition(".")[0].partition("[")[0] == name
    assert (error.status, error.code) == (400, "invalid_value")


@pytest.mark.parametrize("name", [name for name in PUBLISHED + NEWER if name != "messages"])
def test_null_is_absent(name: str) -> None:
    request = parse(**{name: None})
    assert name not in request.model_fields_set
    assert name not in request.given()
    if name != "request_id":
        assert getattr(request, name) == DEFAULTS.get(name)


def test_null_messages_are_missing_messages() -> None:
    with pytest.raises(RequestError, match=r"^messages: is required$"):
        parse_request({"messages": None})


def test_null_is_absent_in_nested_objects_and_extra_keys() -> None:
    request = parse(stream=True, stream_options={"include_usage": None}, unheard_of=None)
    assert request.stream_options is not None
    assert request.stream_options.include_usage is True
    assert request.model_extra == {}


@pytest.mark.parametrize(
    ("name", "given", "kept"),
    [
        ("seed", -1, None),
        ("seed", -2, -2),
        ("top_k", 0, -1),
        ("top_k", 5, 5),
        ("thinking_token_budget", -1, None),
        ("thinking_token_budget", 0, 0),
        ("max_tokens", 3.0, 3),
        ("logit_bias", {"5": 300, 6: -101, "7": 0.5}, {5: 100.0, 6: -100.0, 7: 0.5}),
    ],
)
def test_value_is_kept_as(name: str, given: Any, kept: Any) -> None:
    value = getattr(parse(**{name: given}), name)
    assert value == kept
    assert type(value) is type(kept)


def test_nested_objects() -> None:
    request = parse(
        response_format={"type": "json_schema", "json_schema": SCHEMA},
        tools=[{"function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
        stream=True,
        stream_options={},
    )
    assert request.response_format is not None
    assert request.response_format.json_schema is not None
    assert request.response_format.json_schema.json_schema == {"type": "object"}
    assert request.tools is not None
    assert request.tools[0].type == "function"
    assert request.tools[0].function.model_dump(exclude_unset=True) == {
        "name": "f",
        "parameters": {"type": "object"},
        "strict": True,
    }
    assert request.stream_options is not None
    assert request.stream_options.continuous_usage_stats is False


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        ({"json": {"type": "object"}}, ["json"]),
        ({"json": "{}"}, ["json"]),
        ({"choice": ["a"], "json_object": False}, ["choice"]),
        ({"grammar": "root ::= 'a'", "disable_any_whitespace": True}, ["grammar"]),
        ({"structural_tag": {"structures": []}}, ["structural_tag"]),
    ],
)
def test_structured_outputs(value: dict[str, Any], kinds: list[str]) -> None:
    outputs = parse(structured_outputs=value).structured_outputs
    assert outputs is not None
    assert outputs.kinds == kinds


def test_properties() -> None:
    assert parse(stop="a").stop_list == ["a"]
    assert parse(stop=["a", "b"]).stop_list == ["a", "b"]
    assert parse().stop_list == []
    assert parse().max_new_tokens_limit is None
    assert parse(max_tokens=5).max_new_tokens_limit == 5
    assert parse(max_tokens=5, max_completion_tokens=3).max_new_tokens_limit == 3


def test_the_callers_object_is_left_as_it_was() -> None:
    data = {"messages": MESSAGES, "tools": TOOLS, "top_p": None, "logit_bias": {"1": 200}}
    before = copy.deepcopy(data)
    parse_request(data)
    assert data == before


# --- given, get, parsing again, subclasses ----------------------------------------------------------------------------


def test_given_is_what_differs_from_the_default_in_the_order_of_the_fields() -> None:
    request = parse(zebra=1, top_p=0.5, temperature=0, n=1, top_k=0, seed=-1, stop=[], stream=None, request_id="r")
    given = request.given()
    assert list(given) == ["messages", "temperature", "top_p", "request_id", "zebra"]
    assert given["messages"] is request.messages
    assert given["temperature"] == 0
    assert list(parse().given()) == ["messages"]


def test_get() -> None:
    request = parse(zebra=1, top_p=0.5)
    assert request.get("zebra") == 1
    assert request.get("top_p") == 0.5
    assert request.get("unheard_of") is None
    assert request.get("unheard_of", 7) == 7


def test_a_request_object_is_taken_as_it_is() -> None:
    request = parse(n=2)
    assert parse_request(request) is request


def test_plugins_add_fields() -> None:
    field: Any = (int | None, None)
    wider = pydantic.create_model("Wider", __base__=ChatCompletionRequest, extra_field=field)
    request = parse_request({"messages": MESSAGES, "extra_field": 3, "top_p": None}, wider)
    assert isinstance(request, wider)
    assert request.get("extra_field") == 3
    assert request.given()["extra_field"] == 3
    assert parse_request({"messages": MESSAGES, "extra_field": None}, wider).get("extra_field", 5) is None
    with pytest.raises(RequestError, match=r"^extra_field: should be a valid integer, .*got 'x'$"):
        parse_request({"messages": MESSAGES, "extra_field": "x"}, wider)
    with pytest.raises(RequestError, match=r"^top_logprobs: needs logprobs"):
        parse_request({"messages": MESSAGES, "top_logprobs": 1}, wider)


def test_a_plain_request_becomes_one_of_the_wider_class() -> None:
    field: Any = (int | None, None)
    wider = pydantic.create_model("Wider", __base__=ChatCompletionRequest, extra_field=field)
    plain = parse(
        extra_field=3,
        logit_bias={"5": 1},
        response_format=JSON_FORMAT,
        tools=TOOLS,
        tool_choice=NAMED,
        seed=-1,
    )
    request = parse_request(plain, wider)
    assert isinstance(request, wider)
    assert request.get("extra_field") == 3
    assert request.given() == plain.given()


def test_dump_is_json_that_parses_to_the_same_request() -> None:
    request = parse(structured_outputs={"json": {"type": "object"}}, stop="a", logit_bias={"5": 1}, top_k=3)
    again = parse_request(json.loads(request.model_dump_json(exclude_unset=True, by_alias=True)))
    assert again.given() == request.given()
