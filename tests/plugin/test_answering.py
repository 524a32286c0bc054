"""Which format an answer is read in, and what the parser must know of the prompt and the tokens."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from chatplan import ModelInfo, PluginConflictError, PluginError, Prompt, Settings, hookimpl
from chatplan.answering import answer_prefix, can_parse, marker_tokens, model_format, offers_tools, reading
from chatplan.families import AnswerFormat, built_in_formats
from chatplan.manager import Plugins
from chatplan.request import ChatCompletionRequest, parse_request
from chatplan.standin import stand_in

HERMES = "{# <tool_call> 'arguments\" #}"
TOOLS = [{"type": "function", "function": {"name": "f"}}]
FORMATS = built_in_formats()


class Config:
    """What is read of a model's configuration."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type


def model(template: Any = "", parser: str | None = None, model_type: str | None = None, **stated: Any) -> ModelInfo:
    tokenizer = copy.copy(stand_in().tokenizer)
    tokenizer.chat_template = template
    for name, value in stated.items():
        setattr(tokenizer, name, value)
    config: Any = None if model_type is None else Config(model_type)
    return ModelInfo("m", tokenizer, config, settings=Settings(tool_call_parser=parser))


def found(about: ModelInfo) -> AnswerFormat | None:
    return model_format(about, FORMATS)


# --- the model's format -----------------------------------------------------------------------------------------------

DETECTED: list[tuple[ModelInfo, str | None, bool]] = [
    (model(), None, False),
    (model(None), None, False),
    (model("{{ messages }}"), None, False),
    (model(HERMES), "hermes", False),  # of a family that thinks, but this template does not say so
    (model(HERMES + "</think>"), "hermes", True),
    (model("<think>"), "think", False),
    (model("</think>"), "think", True),
    (model({"default": "{{ messages }}", "tool_use": HERMES}), "hermes", False),
    (model(HERMES, "mistral"), "mistral", False),
    (model("[TOOL_CALLS] [ARGS]", "mistral"), "mistral_v11", True),  # the template decides between two of one name
    (model("", "hermes"), "hermes", True),
    (model("", "qwen25"), "hermes", True),
    (model("", "llama3"), "llama3_json", False),
    (model("", model_type="gpt_oss"), "gpt_oss", False),
    (model(HERMES, model_type="gpt_oss"), "hermes", False),
]


@pytest.mark.parametrize(("about", "name", "thinks"), DETECTED)
def test_the_format_of_a_model(about: ModelInfo, name: str | None, thinks: bool) -> None:
    result = found(about)
    assert (None if result is None else result.name) == name
    if result is not None:
        assert (result.reasoning is not None) == thinks
        assert ("reasoning_content" in result.response_template["fields"]) == thinks


STATED = {
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "thinking": {"open": "<t>\n", "close": "</t>"},
        "tool_calls": {"open": "<tool_call>", "close": "</tool_call>", "repeats": True, "content": "json"},
        "content": {},
    },
}


def test_a_tokenizers_own_response_template_comes_first() -> None:
    result = found(model(HERMES, response_template=STATED))
    assert result is not None
    assert (result.name, result.response_template) == ("response_template", STATED)
    assert result.reasoning is not None
    assert (result.reasoning.open, result.reasoning.close) == ("<t>", "</t>")
    assert (result.calls, result.stream_key) == (FORMATS["hermes"].calls, "arguments")
    assert found(model(HERMES, response_template=None)) == found(model(HERMES))


def test_the_setting_comes_before_the_tokenizers_own() -> None:
    assert found(model("", "llama3_json", response_template=STATED)) == FORMATS["llama3_json"]


def test_an_unknown_name_is_refused_when_a_model_is_introduced() -> None:
    with pytest.raises(ValueError, match=r"'hermse'.*hermes"):
        found(model("", "hermse"))
    with pytest.raises(PluginError, match=r"tool_call_parser: .*'hermse'; there are .*\bhermes\b.*\bqwen3\b"):
        Plugins(installed=False).introduce(model("", "hermse"))


def test_models_are_introduced_once() -> None:
    plugins, about = Plugins(installed=False), model(HERMES)
    known = plugins.introduce(about)
    assert known.answer_format is not None
    assert plugins.introduce(about) is plugins.introduce(known) is known
    assert about.answer_format is None


# --- the format of one request ----------------------------------------------------------------------------------------


def request(tools: bool = True, **fields: Any) -> ChatCompletionRequest:
    more = {"tools": TOOLS} if tools else {}
    return parse_request({"messages": [{"role": "user", "content": "Hi"}], **more, **fields})


def introduced(name: str | None, **changes: Any) -> ModelInfo:
    return replace(stand_in(), answer_format=None if name is None else replace(FORMATS[name], **changes))


NAMED = {"type": "function", "function": {"name": "f"}}
READ: list[tuple[str | None, dict[str, Any], str | None, set[str]]] = [
    (None, {"tools": False}, None, set()),
    (None, {}, "generic", {"tool_calls", "content"}),
    (None, {"tool_choice": "none"}, None, set()),
    ("llama3_json", {"tools": False}, None, set()),
    ("llama3_json", {}, "llama3_json", {"tool_calls", "content"}),
    ("llama3_json", {"tool_choice": "none"}, None, set()),
    ("hermes", {"tools": False}, "hermes", {"reasoning_content", "content"}),
    ("hermes", {"tool_choice": "none"}, "hermes", {"reasoning_content", "content"}),
    ("hermes", {"tool_choice": "required"}, "hermes", {"reasoning_content", "tool_calls", "content"}),
    ("think", {}, "generic", {"reasoning_content", "tool_calls", "content"}),
    ("qwen3_coder", {}, "qwen3_coder", {"reasoning_content", "tool_calls", "content"}),
    ("qwen3_coder", {"tool_choice": "required"}, "generic", {"reasoning_content", "tool_calls", "content"}),
    ("qwen3_coder", {"tool_choice": NAMED}, "generic", {"reasoning_content", "tool_calls", "content"}),
    ("pythonic", {"tool_choice": NAMED}, "generic", {"tool_calls", "content"}),
]


@pytest.mark.parametrize(("name", "fields", "read_as", "regions"), READ)
def test_the_format_of_a_request(
    name: str | None, fields: dict[str, Any], read_as: str | None, regions: set[str]
) -> None:
    result = reading(request(**fields), introduced(name))
    assert (None if result is None else result.name) == read_as
    if result is None or name is None:
        return
    assert set(result.response_template["fields"]) == regions
    assert result.reasoning == (FORMATS[name].reasoning if "reasoning_content" in regions else None)
    if "tool_calls" not in regions:
        assert (result.calls, result.stream_key) == (None, None)


@pytest.mark.dev_only
@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_every_format_can_be_read(name: str, choice: str) -> None:
    from transformers.utils.chat_parsing import ResponseParser

    result = reading(request(tool_choice=choice), introduced(name))
    if result is not None:
        ResponseParser(dict(result.response_template), prefix="").feed("Hi")
        assert choice != "required" or result.calls is not None


def test_whether_tools_are_offered() -> None:
    assert [offers_tools(request(tool_choice=choice)) for choice in ("none", "auto", "required")] == [False, True, True]
    assert offers_tools(request())
    assert not offers_tools(request(tools=False))


# --- what the parser reads before the answer --------------------------------------------------------------------------

PREFIXES: list[tuple[str | list[Any], str, str]] = [
    ("Sure", "<|a|>Sure", ""),
    ("<think>Let me", "<|a|><think>Let me", "\n<think>"),
    ([{"type": "text", "text": "<think>Let me"}], "<|a|><think>Let me", "\n<think>"),
    ("<think>Ok</think>So", "<|a|><think>Ok</think>So", ""),
    ("<think>Ok</think>So <think>again", "<|a|><think>Ok</think>So <think>again", "\n<think>"),
    ("So", "<|u|>what is <think>?<|a|>So", ""),  # of another message
]


@pytest.mark.parametrize(("content", "text", "prefix"), PREFIXES)
def test_a_message_that_is_continued(content: Any, text: str, prefix: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    wish = parse_request({"messages": messages, "continue_final_message": True, "add_generation_prompt": False})
    assert answer_prefix(wish, Prompt((1,), text), FORMATS["hermes"]) == prefix
    assert answer_prefix(wish, Prompt((1,), text), FORMATS["llama3_json"]) == text  # no marks to look for


def test_otherwise_it_is_the_prompt() -> None:
    assert answer_prefix(request(), Prompt((1,), "<|a|><think>\n"), FORMATS["hermes"]) == "<|a|><think>\n"


MARKERS: list[tuple[str, list[str]]] = [
    ("hermes", ["<think>", "</think>", "<tool_call>", "</tool_call>"]),
    ("mistral", ["[TOOL_CALLS]"]),
    ("mistral_v11", ["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"]),
    ("llama3_json", ["<|python_end|>"]),
    ("cohere_command3", ["<|START_THINKING|>", "<|END_THINKING|>", "<|START_ACTION|>", "<|END_ACTION|>"]),
]


@pytest.mark.parametrize(("name", "marks"), MARKERS)
def test_the_marks_that_must_reach_the_parser(name: str, marks: list[str]) -> None:
    special = dict(enumerate(["<s>", *marks, "<|im_end|>", "<pad>"]))
    assert marker_tokens(FORMATS[name], special) == tuple(range(1, len(marks) + 1))
    assert marker_tokens(FORMATS[name], {}) == ()


# --- formats of plugins -----------------------------------------------------------------------------------------------

FIELDS = {"tool_calls": {"open": "<<", "close": ">>", "content": "json"}, "content": {}}
OWN: dict[str, Any] = {"names": ["mine"], "detect": [["<<", ">>"]], "response_template": {"fields": FIELDS}}


class Offers:
    """A plugin that adds formats."""

    def __init__(self, formats: Mapping[str, Any], name: str = "offers") -> None:
        self.formats, self.name = formats, name

    @hookimpl
    def answer_formats(self) -> Mapping[str, Any]:
        return self.formats


@pytest.mark.parametrize("given", [OWN, AnswerFormat.from_dict("own", OWN)])
def test_a_plugins_format(given: Any) -> None:
    plugins = Plugins([Offers({"own": given})], installed=False)
    for about in (model("<< >>"), model("", "own"), model("", "mine")):
        assert plugins.introduce(about).answer_format == AnswerFormat.from_dict("own", OWN)
    assert found(model("<< >>")) is None


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ([Offers({"hermes": OWN})], "'hermes'.*chatplan.*offers"),
        ([Offers({"own": OWN}, "one"), Offers({"own": OWN}, "two")], "'own'.*two.*one"),
    ],
)
def test_two_formats_of_one_name(plugins: list[Any], message: str) -> None:
    with pytest.raises(PluginConflictError, match=message):
        Plugins(plugins, installed=False)


MALFORMED: list[Any] = [
    ({"own": {}}, "'offers': own: 'response_template' is missing"),
    ({"own": {**OWN, "detects": []}}, "'offers': own: 'detects'"),
    ({"own": {**OWN, "calls": {"begin": "<<", "end": "", "separator": ""}}}, "own.calls.begin"),
    ({"own": {**OWN, "response_template": {"fields": {"thoughts": {}}}}}, "'thoughts'"),
    ({"own": 3}, "'offers': own: must be an object"),
    ([], "answer_formats returned list, not a mapping"),
    pytest.param(
        {"own": {"response_template": {"fields": {"tool_calls": {"open_pattern": "("}}}}},
        "invalid open_pattern regex",
        marks=pytest.mark.dev_only,
    ),
]


@pytest.mark.parametrize(("formats", "message"), MALFORMED)
def test_malformed_formats_name_their_plugin(formats: Any, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        Plugins([Offers(formats)], installed=False)


def test_whether_answers_can_be_parsed() -> None:
    try:
        import transformers.utils.chat_parsing  # noqa: F401
    except ModuleNotFoundError:
        assert not can_parse()
    else:
        assert can_parse()
