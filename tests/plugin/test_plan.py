"""A plan is data: it prints, compares and serialises. The golden files hold whole plans.

    CHATPLAN_GOLDEN=write python -m pytest tests/plugin/test_plan.py

writes the golden files anew; read the difference before you keep it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor

from chatplan.compiler import compile_plan
from chatplan.hookspecs import hookimpl
from chatplan.manager import Plugins
from chatplan.plan import GenerationPlan, Prompt, Stage, describe
from chatplan.request import ChatCompletionRequest, parse_request
from chatplan.request_types import StreamOptions
from chatplan.settings import Settings
from chatplan.standin import stand_in

GOLDEN = Path(__file__).parents[1] / "golden"
USER = {"role": "user", "content": "Hi"}
TEMPLATE = "{{ mood }} {{ documents[0].text }} {% for m in messages %}{{ m.content }}{% endfor %}"
CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}

REQUESTS: dict[str, dict[str, Any]] = {
    "plain": {"messages": [USER]},
    "greedy": {"messages": [USER], "model": "stand-in", "temperature": 0, "max_tokens": 5, "user": "u-1"},
    "sampling": {"messages": [USER], "temperature": 1.5, "top_k": 40, "top_p": 0.9, "min_p": 0.05, "seed": 7, "n": 3},
    "best_of": {"messages": [USER], "best_of": 4, "n": 2, "max_completion_tokens": 8},
    "penalties": {
        "messages": [USER],
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.5,
        "presence_penalty": -0.5,
    },
    "bias": {
        "messages": [USER],
        "logit_bias": {"65": 5, "66": -200},
        "allowed_token_ids": [65, 66, 257],
        "bad_words": ["no", " never"],
    },
    "stops": {
        "messages": [USER],
        "stop": ["\n\n", "END"],
        "stop_token_ids": [10],
        "include_stop_str_in_output": True,
        "min_tokens": 2,
        "ignore_eos": True,
    },
    "logprobs": {
        "messages": [USER],
        "logprobs": True,
        "top_logprobs": 3,
        "prompt_logprobs": 1,
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
    },
    "beams": {
        "messages": [USER],
        "use_beam_search": True,
        "n": 2,
        "best_of": 4,
        "length_penalty": 0.5,
        "early_stopping": True,
        "max_tokens": 6,
    },
    "stream": {
        "messages": [USER],
        "stream": True,
        "stream_options": {"include_usage": True},
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
    },
    "template": {
        "messages": [USER],
        "chat_template": TEMPLATE,
        "chat_template_kwargs": {"mood": "glad"},
        "documents": [{"title": "Tides", "text": "The moon pulls."}],
        "add_special_tokens": True,
    },
    "prefill": {
        "messages": [USER, {"role": "assistant", "content": "Well,"}],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "echo": True,
        "truncate_prompt_tokens": 9,
    },
    "conversation": {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": [{"type": "text", "text": "Really."}]},
            {"role": "user", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": "+ 1?"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ],
    },
    "guided_json": {
        "messages": [USER],
        "guided_json": {"type": "object", "properties": {"a": {"type": "integer"}}},
        "guided_whitespace_pattern": "",
        "guided_decoding_backend": "guidance",
    },
    "guided_regex": {"messages": [USER], "guided_regex": "[0-9]{4}"},
    "guided_choice": {"messages": [USER], "guided_choice": ["yes", "no"]},
    "guided_grammar": {"messages": [USER], "guided_grammar": 'start: "yes" | "no"'},
    "response_format": {"messages": [USER], "response_format": {"type": "json_object"}},
    "structured_outputs": {"messages": [USER], "structured_outputs": {"regex": "a+"}},
    "tools": {
        "messages": [USER],
        "tools": [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}],
        "tool_choice": "required",
        "parallel_tool_calls": True,
    },
    "scheduling": {"messages": [USER], "priority": -1, "cache_salt": "tenant"},
    "reasoning": {
        "messages": [USER],
        "reasoning_effort": "low",
        "include_reasoning": False,
        "thinking_token_budget": 9,
    },
}
# Calls and thoughts are read by the response parser of the newest transformers.
NEWEST = {"tools", "reasoning"}
# Some fields need a setting.
MODELS = {
    "thinking_token_budget": replace(stand_in(), settings=Settings(max_model_len=8192, tool_call_parser="hermes")),
    "priority": replace(stand_in(), settings=Settings(max_model_len=8192, scheduling_policy="priority")),
}


def named(names: Iterable[str]) -> list[Any]:
    """The requests as parameters; those that the oldest transformers refuses are marked."""
    return [pytest.param(name, marks=pytest.mark.dev_only if name in NEWEST else ()) for name in sorted(names)]


def compiled(request: dict[str, Any], *plugins: Any) -> GenerationPlan:
    loaded = Plugins(plugins, installed=False)
    model = MODELS.get(next(iter(MODELS.keys() & request.keys()), ""), stand_in())
    return compile_plan(parse_request({"request_id": "golden", **request}, loaded.request_type), model, loaded)


def pretty(data: Any) -> str:
    """JSON with lists of numbers on one line."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return re.sub(r"\[[\s\d,.-]+\]", lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


# --- golden files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", named(REQUESTS))
def test_plan_is_that_of_the_golden_file(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    made = {"request": REQUESTS[name], "plan": compiled(REQUESTS[name]).to_dict()}
    if os.environ.get("CHATPLAN_GOLDEN") == "write":
        path.write_text(pretty(made), "utf-8")
    assert made == json.loads(path.read_text("utf-8"))


def test_golden_files_are_those_of_the_requests() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(REQUESTS)


def test_golden_files_set_every_field_that_is_answered() -> None:
    given = {name for request in REQUESTS.values() for name in parse_request(request).given()}
    assert given | {"request_id"} == set(Plugins(installed=False).fields)


# --- a plan is data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", named(REQUESTS))
def test_equal_requests_have_equal_plans(name: str) -> None:
    assert compiled(REQUESTS[name]) == compiled(json.loads(json.dumps(REQUESTS[name])))


@pytest.mark.parametrize("name", named(set(REQUESTS) - {"plain", "conversation"}))
def test_each_field_makes_another_plan(name: str) -> None:
    assert compiled(REQUESTS[name]) != compiled({"messages": REQUESTS[name]["messages"]})


@pytest.mark.parametrize("name", named(REQUESTS))
def test_a_plan_prints_as_json_without_tensors(name: str) -> None:
    plan = compiled(REQUESTS[name])
    assert json.loads(str(plan)) == plan.to_dict() == json.loads(plan.to_json())
    assert "tensor" not in repr(plan)


def test_json_takes_the_keywords_of_json_dumps() -> None:
    plan = compiled({"messages": [{"role": "user", "content": "é"}]})
    assert "é" in plan.to_json()
    assert "\\u00e9" in plan.to_json(ensure_ascii=True)


def test_a_plan_does_not_change() -> None:
    with pytest.raises(AttributeError):
        compiled(REQUESTS["plain"]).request_id = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "choices", "samples", "beams"),
    [("plain", 1, 1, 1), ("sampling", 3, 3, 1), ("best_of", 2, 4, 1), ("beams", 2, 2, 4)],
)
def test_numbers_of_rows(name: str, choices: int, samples: int, beams: int) -> None:
    plan = compiled(REQUESTS[name])
    assert (plan.choices, plan.samples, plan.beams) == (choices, samples, beams)


def test_most_new_tokens() -> None:
    assert compiled(REQUESTS["greedy"]).max_new_tokens == 5
    plan = compiled(REQUESTS["plain"])
    assert plan.max_new_tokens == 8192 - len(plan.prompt.token_ids)


# --- describe ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    x: int
    label: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("value", "described"),
    [
        (None, None),
        (True, True),
        ("é", "é"),
        (1.5, 1.5),
        ({1: (2, 3)}, {"1": [2, 3]}),
        ({3, 1, 2}, [1, 2, 3]),
        (Point(1, ("a",)), {"x": 1, "label": ["a"]}),
        ([Point(1)], [{"x": 1, "label": []}]),
        (StreamOptions.model_validate({"include_usage": False}), {"include_usage": False}),
        (parse_request({"messages": [USER]}).messages, [USER]),
        (torch.zeros(2, 3), "<Tensor(2, 3)>"),
        (object(), "<object>"),
        (Stage.BIAS, 60),
    ],
)
def test_describe(value: Any, described: Any) -> None:
    assert describe(value) == described
    assert json.loads(json.dumps(describe(value))) == described


def test_keys_of_nested_objects_are_those_of_the_request() -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    request = ChatCompletionRequest.model_validate({"messages": [USER], "response_format": schema})
    assert describe(request.response_format) == schema


class Shout(LogitsProcessor):
    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.table = torch.ones(4)
        self._cache: list[int] = []


def test_plugins_objects_show_their_public_attributes() -> None:
    mine = SimpleNamespace(name="mine", logits_processors=hookimpl(lambda: [(Stage.BIAS, Shout(2.0))]))
    (shown,) = (item for item in compiled(REQUESTS["plain"], mine).to_dict()["processors"] if item["stage"] == "bias")
    assert shown == {"stage": "bias", "type": "Shout", "factor": 2.0, "table": "<Tensor(4,)>"}


def test_inputs_of_other_media_show_their_shape() -> None:
    prompt = Prompt((1,), inputs={"pixel_values": torch.zeros(1, 3, 8, 8)})
    mine = SimpleNamespace(name="mine", render_prompt=hookimpl(lambda: prompt))
    plan = compiled(REQUESTS["plain"], mine)
    assert plan.to_dict()["prompt"]["inputs"] == {"pixel_values": "<Tensor(1, 3, 8, 8)>"}
    json.dumps(plan.to_dict())
