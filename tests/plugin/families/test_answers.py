"""Answers as models of each family write them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from chatplan.families import built_in_formats

pytestmark = pytest.mark.dev_only

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "share": {"type": "number"},
        "exact": {"type": "boolean"},
        "note": {"type": ["string", "null"]},
        "tags": {"type": "array"},
        "more": {"type": "object"},
    },
}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("weather", "get-time")]
BERN = ("weather", {"city": "Bern"})
TIME: tuple[str, Any] = ("get-time", {})
TYPED = (
    "weather",
    {"city": "12", "days": 3, "share": 0.5, "exact": True, "note": None, "tags": [1], "more": {"a": {}}},
)
CODE = ("weather", {"city": " if a < b:\n  print('</p>')\n"})
HARMONY_CALL = "<|channel|>commentary to=functions.weather <|constrain|>json<|message|>"


def deepseek(text: str) -> str:
    """DeepSeek's marks have a full-width bar, and a low block where others have an underscore."""
    return re.sub(r"<\|(\w+)\|>", lambda mark: f"<\uff5c{mark[1]}\uff5c>".replace("_", "\u2581"), text)


ANSWERS: list[tuple[str, str, tuple[str, str, list[tuple[str, Any]]]]] = [
    # hermes: names may come last, space is free, and text may follow
    ("hermes", '<tool_call>{"name": "weather", "arguments": {"city": "Bern"}}</tool_call>', ("", "", [BERN])),
    ("hermes", '<tool_call>\n{ "arguments": {"city": "Bern"}, "name": "weather"}\n</tool_call> ', ("", "", [BERN])),
    (
        "hermes",
        '<think>\n\n</think>\n\nA.\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n'
        "</tool_call>\nB.",
        ("", "A.\nB.", [BERN]),
    ),
    ("hermes", "<tool_cal> <think", ("", "<tool_cal> <think", [])),
    # llama3_json
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Bern"}}', ("", "", [BERN])),
    ("llama3_json", '<|python_tag|>{"name": "weather", "parameters": {"city": "Bern"}}', ("", "", [BERN])),
    ("llama3_json", '{"type": "function", "name": "weather", "parameters": {"city": "Bern"}}', ("", "", [BERN])),
    (
        "llama3_json",
        '{"name": "weather", "parameters": {"city": "Bern"}}\n{"name": "get-time", "parameters": {}}',
        ("", "", [BERN, TIME]),
    ),
    (
        "llama3_json",
        '<|python_start|>{"name": "weather", "parameters": {"city": "Bern"}}<|python_end|>',
        ("", "", [BERN]),
    ),
    ("llama3_json", '{"name": "Bern", "people": 1}', ("", '{"name": "Bern", "people": 1}', [])),
    # mistral
    (
        "mistral",
        '[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Bern"}, "id": "a1"}]',
        ("", "", [BERN]),
    ),
    ("mistral_v11", '[TOOL_CALLS]weather[ARGS]{"city": "Bern"}[TOOL_CALLS]get-time[ARGS]{}', ("", "", [BERN, TIME])),
    ("mistral_v11", '[TOOL_CALLS]weather[CALL_ID]a1[ARGS]{"city": "Bern"}', ("", "", [BERN])),
    ("mistral_v11", 'Now.[TOOL_CALLS]weather{"city": "Bern"}', ("", "Now.", [BERN])),
    ("mistral_v11", "[THINK]Hm.[/THINK]Hello.", ("Hm.", "Hello.", [])),
    # qwen3_coder
    (
        "qwen3_coder",
        "<think>\nHm.\n</think>\n\nNow.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nBern\n</parameter>\n"
        "</function>\n</tool_call>\n<tool_call>\n<function=get-time>\n</function>\n</tool_call>",
        ("Hm.", "Now.", [BERN, TIME]),
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\n12\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        "<parameter=share>\n0.5\n</parameter>\n<parameter=exact>\ntrue\n</parameter>\n<parameter=note>\nnull\n"
        '</parameter>\n<parameter=tags>\n[1]\n</parameter>\n<parameter=more>\n{"a": {}}\n</parameter>\n'
        "</function>\n</tool_call>",
        ("", "", [TYPED]),
    ),
    (
        "qwen3_coder",
        "<function=weather>\n<parameter=city>\n if a < b:\n  print('</p>')\n\n</parameter>\n</function>\n</tool_call>",
        ("", "", [CODE]),
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\n</function></parameter> x\n</parameter>\n</function>\n"
        "</tool_call>",
        ("", "", [("weather", {"city": "</function></parameter> x"})]),
    ),
    # seed_oss
    (
        "seed_oss",
        "<seed:think>Hm.</seed:think>\nNow.\n<seed:tool_call>\n<function=weather>\n<parameter=city>Bern</parameter>\n"
        "</function>\n</seed:tool_call>",
        ("Hm.", "Now.", [BERN]),
    ),
    # minimax_m2
    (
        "minimax_m2",
        '<think>\nHm.\n</think>\n\nNow.\n<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Bern'
        '</parameter>\n</invoke>\n<invoke name="get-time">\n</invoke>\n</minimax:tool_call>',
        ("Hm.", "Now.", [BERN, TIME]),
    ),
    # glm45
    (
        "glm45",
        "\n<think>Hm.</think>\nNow.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Bern</arg_value>\n"
        "</tool_call>\n<tool_call>get-time\n</tool_call>",
        ("Hm.", "Now.", [BERN, TIME]),
    ),
    (
        "glm45",
        "<tool_call>weather<arg_key>city</arg_key><arg_value> if a < b:\n  print('</p>')\n</arg_value></tool_call>",
        ("", "", [CODE]),
    ),
    ("glm45", "<tool_call>get-time</tool_call>", ("", "", [TIME])),
    # pythonic, olmo3, lfm2
    ("pythonic", "[weather(city='Bern'), clock()]", ("", "", [BERN, ("clock", {})])),
    ("pythonic", '<|python_start|>[weather(city="Bern")]<|python_end|>', ("", "", [BERN])),
    ("pythonic", 'Now:\n\n[weather(city="Bern")]', ("", "Now:", [BERN])),
    ("pythonic", "See [this](there) and [f(x)].", ("", "See [this](there) and [f(x)].", [])),
    (
        "olmo3",
        "<think>Hm.</think>\nNow.\n<function_calls>\nweather(city='Bern')\nclock(exact=true)\n</function_calls>",
        ("Hm.", "Now.", [BERN, ("clock", {"exact": True})]),
    ),
    (
        "lfm2",
        '<think>Hm.</think><|tool_call_start|>[weather(city="Bern")]<|tool_call_end|>Checking.',
        ("Hm.", "Checking.", [BERN]),
    ),
    # lists after a mark
    ("granite", '<|tool_call|>[{"name": "weather", "arguments": {"city": "Bern"}}]', ("", "", [BERN])),
    ("granite", '<tool_call> [{"name": "weather", "arguments": {"city": "Bern"}}]\n', ("", "", [BERN])),
    ("granite", "<think>Hm.</think>\n<response>Hello.</response>", ("Hm.", "Hello.", [])),
    ("phi4_mini", ' functools[{"name": "weather", "arguments": {"city": "Bern"}}]', ("", "", [BERN])),
    ("jamba", '<tool_calls>[\n  {"name": "weather", "arguments": {"city": "Bern"}}\n]</tool_calls>', ("", "", [BERN])),
    (
        "nemotron",
        '<think>\nHm.\n</think>\n\n<TOOLCALL>[{"name": "weather", "arguments": {"city": "Bern"}}]</TOOLCALL>',
        ("Hm.", "", [BERN]),
    ),
    (
        "cohere_command3",
        '<|START_THINKING|>Hm.<|END_THINKING|><|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "weather", '
        '"parameters": {"city": "Bern"}},\n    {"tool_call_id": "1", "tool_name": "get-time", "parameters": {}}\n'
        "]<|END_ACTION|>",
        ("Hm.", "", [BERN, TIME]),
    ),
    ("cohere_command3", "<|START_RESPONSE|>Hello.<|END_RESPONSE|>", ("", "Hello.", [])),
    # DeepSeek
    (
        "deepseek_v3",
        deepseek(
            '<|tool_calls_begin|><|tool_call_begin|>function<|tool_sep|>weather\n```json\n{"city": "Bern"}\n```'
            "<|tool_call_end|>\n<|tool_call_begin|>function<|tool_sep|>get-time\n```json\n{}\n```<|tool_call_end|>"
            "<|tool_calls_end|>"
        ),
        ("", "", [BERN, TIME]),
    ),
    ("deepseek_r1", "Hm.\n</think>\n\nHello.", ("Hm.", "Hello.", [])),
    ("deepseek_r1", "<think>\nHm.\n</think>\n\nHello.", ("Hm.", "Hello.", [])),
    ("deepseek_r1", "<b>Hm", ("<b>Hm", "", [])),
    (
        "deepseek_r1",
        deepseek(
            "Hm.\n</think>\n\n<|tool_calls_begin|><|tool_call_begin|>function<|tool_sep|>weather\n```json\n"
            '{"city": "Bern"}\n```<|tool_call_end|>'
        ),
        ("Hm.", "", [BERN]),
    ),
    (
        "deepseek_v31",
        deepseek(
            'Now.<|tool_calls_begin|><|tool_call_begin|>weather<|tool_sep|>{"city": "Bern"}<|tool_call_end|>'
            "<|tool_call_begin|>get-time<|tool_sep|>{}<|tool_call_end|><|tool_calls_end|>"
        ),
        ("", "Now.", [BERN, TIME]),
    ),
    # kimi_k2
    (
        "kimi_k2",
        "<think>Hm.</think>Now.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
        '<|tool_call_argument_begin|>{"city": "Bern"}<|tool_call_end|><|tool_call_begin|>functions.get-time:1'
        "<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
        ("Hm.", "Now.", [BERN, TIME]),
    ),
    # internlm2
    *(
        (
            "internlm2",
            f'Now.<|action_start|><|plugin|>\n{{"name": "weather", "{key}": {{"city": "Bern"}}}}<|action_end|>\n',
            ("", "Now.", [BERN]),
        )
        for key in ("parameters", "arguments")
    ),
    # Gemma
    (
        "gemma4",
        '<|channel>thought\nHm.<channel|>Now.<|tool_call>call:weather{city:<|"|>Bern<|"|>}<tool_call|>'
        '<|tool_call>call:f{a:[1,{b:<|"|>{x:"1", y:2}<|"|>}],c:true,d:null}<tool_call|>',
        ("Hm.", "Now.", [BERN, ("f", {"a": [1, {"b": '{x:"1", y:2}'}], "c": True, "d": None})]),
    ),
    (
        "functiongemma",
        "<start_function_call>call:weather{city:<escape>Bern<escape>}<end_function_call>"
        "<start_function_call>call:f{a:1,b:<escape>{x:1}\n<escape>}<end_function_call>",
        ("", "", [BERN, ("f", {"a": 1, "b": "{x:1}\n"})]),
    ),
    # gpt_oss
    (
        "gpt_oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|return|>",
        ("Hm.", "Hello.", []),
    ),
    (
        "gpt_oss",
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Now.<|end|>"
        "<|start|>assistant" + HARMONY_CALL + '{"city": "Bern"}<|call|>',
        ("Hm.", "Now.", [BERN]),
    ),
    ("gpt_oss", HARMONY_CALL + '{"city": "Bern"}', ("", "", [BERN])),
    (
        "gpt_oss",
        ' to=functions.weather<|channel|>commentary json<|message|>{"city": "Bern"}<|call|>',
        ("", "", [BERN]),
    ),
    (
        "gpt_oss",
        '<|channel|>final <|constrain|>json<|message|>{"city": "Bern"}',
        ("", '{"city": "Bern"}', []),
    ),
]


@pytest.mark.parametrize(("name", "text", "parts"), ANSWERS, ids=[f"{i}-{each[0]}" for i, each in enumerate(ANSWERS)])
def test_answers(name: str, text: str, parts: Any, read: Callable[..., Any]) -> None:
    assert read(built_in_formats()[name], text, tools=TOOLS) == parts


def test_every_family_has_an_answer_of_its_own() -> None:
    assert {name for name, _, _ in ANSWERS} | {"generic", "think"} == set(built_in_formats())
