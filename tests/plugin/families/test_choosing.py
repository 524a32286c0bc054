"""Which format a model answers in, and what a format may state. The excerpts are in the styles of known templates."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from chatplan.families import (
    AnswerFormat,
    CallSyntax,
    Reasoning,
    built_in_formats,
    find_format,
    format_of_template,
)

FORMATS = built_in_formats()
MINIMAL: dict[str, Any] = {"response_template": {"fields": {"content": {}}}}
CALLS: dict[str, Any] = {"begin": "<call>{name}(", "end": ")</call>", "separator": "\n"}


def deepseek(text: str) -> str:
    """DeepSeek's marks have a full-width bar, and a low block where others have an underscore."""
    return re.sub(r"<\|(\w+)\|>", lambda mark: f"<\uff5c{mark[1]}\uff5c>".replace("_", "\u2581"), text)


EXCERPTS = {
    "hermes": "{{- '<tool_call>\\n{\"name\": ' }}{{- '\"arguments\": ' + args }}{{ '\\n</tool_call>' }}",
    "qwen3_coder": "{{- '<tool_call>\\n<function=' + name + '>\\n<parameter=' + key }}{# \"arguments\" #}</think>",
    "glm45": '<tool_call>{name}\n<arg_key>{k}</arg_key>\n<arg_value>{v}</arg_value></tool_call>{# "arguments" #}',
    "minimax_m2": "{% set begin = '<minimax:tool_call>' %}<invoke name=\"a\"><think>",
    "seed_oss": "{% set a = '<seed:tool_call>' %}{% set b = '<seed:think>' %}",
    "llama3_json": 'in the format {"name": function name, "parameters": dictionary of argument name and its value}.',
    "mistral": "{{- '[TOOL_CALLS] [' }}",
    "mistral_v11": "{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}",
    "pythonic": "Use exact format: [func_name1(param1=value1, param2=value2), func_name2(...)]",
    "olmo3": "<functions></functions> <function_calls>\nf(a=1)\n</function_calls>",
    "lfm2": "List of tools: <|tool_list_start|>[",
    "granite": "{{ '<|start_of_role|>system' }} respond only with <|tool_call|> followed by a JSON list <think>",
    "phi4_mini": 'a single JSON list formatted as functools[{"name": [function name], "arguments": []}]',
    "jamba": "<tool_call> {{- '<tool_calls>[' }}{{- ', \"arguments\": ' }}{{- ']</tool_calls>' }}",
    "nemotron": "<TOOLCALL>[{}]</TOOLCALL> <think>",
    "cohere_command3": '<|START_THINKING|><|START_ACTION|>[{"tool_name": 1}]<|END_ACTION|>',
    "deepseek_v3": deepseek("{{'<|tool_calls_begin|><|tool_call_begin|>' + type + '<|tool_sep|>' }}\n```json\n"),
    "deepseek_r1": deepseek("</think>{{'<|tool_calls_begin|><|tool_call_begin|>' + t + '<|tool_sep|>' }}\n```json\n"),
    "deepseek_v31": deepseek("</think>{{'<|tool_calls_begin|><|tool_call_begin|>' + name + '<|tool_sep|>' + a }}"),
    "kimi_k2": "<|tool_calls_section_begin|><|tool_call_begin|> <think>",
    "internlm2": "{{- '<|action_start|><|plugin|>\\n' }}",
    "gemma4": "{{- '<|tool_call>call:' + name }}{{ '}<tool_call|>' }}",
    "functiongemma": "<start_function_call>call:",
    "gpt_oss": "{{- '<|start|>assistant<|channel|>analysis<|message|>' }}{{ '<|channel|>commentary' }}",
    "think": "{% if '</think>' in content %}{% endif %}",
}


@pytest.mark.parametrize(("name", "template"), EXCERPTS.items(), ids=EXCERPTS)
def test_a_template_tells_its_family(name: str, template: str) -> None:
    found = find_format(None, template, None, FORMATS)
    assert found is not None
    assert found.name == name


def test_every_family_but_the_generic_one_can_be_told() -> None:
    assert set(EXCERPTS) | {"generic"} == set(FORMATS)


@pytest.mark.parametrize("template", [None, "", "{{ message['role'] }}: {{ message['content'] }}"])
def test_a_template_may_tell_nothing(template: str | None) -> None:
    assert find_format(None, template, None, FORMATS) is None
    assert find_format(None, template, "llama", FORMATS) is None
    assert find_format(None, template, "gpt_oss", FORMATS) is FORMATS["gpt_oss"]


def test_marks_count_more_than_the_model_type() -> None:
    assert find_format(None, EXCERPTS["hermes"], "gpt_oss", FORMATS) is FORMATS["hermes"]


@pytest.mark.parametrize("template", [None, EXCERPTS["mistral"]])
def test_a_name_counts_more_than_marks(template: str | None) -> None:
    assert find_format("qwen25", template, None, FORMATS) is FORMATS["hermes"]
    assert find_format("glm47", template, "gpt_oss", FORMATS) is FORMATS["glm45"]
    assert find_format("generic", template, None, FORMATS) is FORMATS["generic"]


def test_of_families_that_share_a_name_the_template_tells_which() -> None:
    assert find_format("mistral", None, None, FORMATS) is FORMATS["mistral"]
    assert find_format("mistral", EXCERPTS["mistral_v11"], None, FORMATS) is FORMATS["mistral_v11"]
    assert find_format("deepseek_v3", EXCERPTS["deepseek_r1"], None, FORMATS) is FORMATS["deepseek_r1"]
    assert find_format("deepseek_v3", EXCERPTS["hermes"], None, FORMATS) is FORMATS["deepseek_v3"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="no answer format is called 'hermse'; there are .*hermes, .*qwen25"):
        find_format("hermse", None, None, FORMATS)


def test_of_equals_the_first_wins() -> None:
    made = {name: AnswerFormat.from_dict(name, {**MINIMAL, "detect": [["<x>"]]}) for name in ("b", "a")}
    found = find_format(None, "<x>", None, made)
    assert found is made["b"]


def test_the_files_are_read_once_and_cannot_be_changed() -> None:
    assert built_in_formats() is FORMATS
    assert list(FORMATS) == sorted(FORMATS)
    with pytest.raises(TypeError):
        FORMATS["hermes"] = FORMATS["think"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "mine: must be an object, not list"),
        ({}, "mine: 'response_template' is missing"),
        ({**MINIMAL, "detects": []}, "mine: 'detects' is no key here; keys are response_template, names, "),
        ({**MINIMAL, "names": "x"}, "mine.names: must be a list of strings"),
        ({**MINIMAL, "detect": ["x"]}, "mine.detect: must be a list of strings"),
        ({**MINIMAL, "detect": "x"}, "mine.detect: must be a list of lists of strings"),
        ({**MINIMAL, "pythonic": 1}, "mine.pythonic: must be true or false"),
        ({**MINIMAL, "stream_key": 1}, "mine.stream_key: must be a string"),
        ({**MINIMAL, "reasoning": {"open": "<a>"}}, "mine.reasoning: 'close' is missing"),
        ({**MINIMAL, "reasoning": {"open": "<a>", "close": None}}, "mine.reasoning.close: must be a string"),
        ({**MINIMAL, "calls": {**CALLS, "stop": 1}}, "mine.calls.stop: must be a string"),
        ({**MINIMAL, "calls": {**CALLS, "begin": "<call>"}}, "mine.calls.begin: {name} must be in it exactly once"),
        ({**MINIMAL, "calls": {**CALLS, "begin": "{name}{name}"}}, "mine.calls.begin: {name} must be"),
        ({**MINIMAL, "calls": {**CALLS, "trigger": "<calls>"}}, "mine.calls.trigger: start and begin, up to the name"),
        ({**MINIMAL, "calls": {**CALLS, "trigger": "<call>{name}"}}, "mine.calls.trigger: start and begin"),
        ({"response_template": {}}, "mine.response_template: 'fields' is missing"),
        ({"response_template": {"fields": {}, "end": 1}}, "mine.response_template: 'end' is no key here"),
        ({"response_template": {"fields": {"text": {}}}}, "mine.response_template.fields: 'text' is no key here"),
    ],
)
def test_what_a_format_may_not_state(data: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        AnswerFormat.from_dict("mine", data)


def test_a_start_anchor_that_is_stated_is_kept() -> None:
    stated = {"response_template": {**MINIMAL["response_template"], "start_anchor": "<a>"}}
    assert AnswerFormat.from_dict("mine", stated).response_template == stated["response_template"]
    assert "start_anchor_pattern" in AnswerFormat.from_dict("mine", MINIMAL).response_template


def test_names_are_written_into_the_call() -> None:
    in_json = CallSyntax.from_dict("mine", {**CALLS, "begin": '{"name": "{name}", "arguments": '})
    assert in_json.begin_of('a"é\\') == '{"name": "a\\"é\\\\", "arguments": '
    assert json.loads(in_json.begin_of('a"é\\') + "{}}")["name"] == 'a"é\\'
    assert CallSyntax.from_dict("mine", CALLS).begin_of('a"') == '<call>a"('
    for each in FORMATS.values():
        if each.calls is not None:
            assert "{name}" not in each.calls.begin_of("f")


class TestFormatOfTemplate:
    """Formats from the response template that a tokenizer brings along."""

    @staticmethod
    def of(base: str | None, **fields: Any) -> AnswerFormat:
        return format_of_template({"start_anchor": "<a>", "fields": fields}, None if base is None else FORMATS[base])

    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
    def test_marks_of_reasoning_are_taken_from_it(self, name: str) -> None:
        assert self.of(None, **{name: {"open": "<r>\n", "close": ["</r>", "<b>"]}}).reasoning == Reasoning(
            "<r>", "</r>"
        )

    def test_patterns_are_no_marks(self) -> None:
        pattern = {"open_pattern": "<r>\\s*", "close": "</r>"}
        assert self.of(None, thinking=pattern).reasoning is None
        assert self.of("hermes", thinking=pattern).reasoning == FORMATS["hermes"].reasoning
        assert self.of("hermes", content={}).reasoning is None

    def test_calls_are_those_of_the_family(self) -> None:
        body = {"open": "<tool_call>", "close": "</tool_call>", "content": "json"}
        made = self.of("hermes", tool_calls=body)
        assert (made.calls, made.stream_key, made.pythonic) == (FORMATS["hermes"].calls, "arguments", False)
        assert self.of(None, tool_calls=body).calls is None
        assert self.of("hermes", content={}).calls is None

    def test_only_a_body_with_the_name_in_it_streams(self) -> None:
        named = {"open_pattern": "<tool_call>(?P<name>\\w+)", "content": "json", "transform": {}}
        assert self.of("hermes", tool_calls=named).stream_key is None
        assert self.of("hermes", tool_calls={"open": "<tool_call>", "content": "xml-inline"}).stream_key is None
