"""What holds of every format: plain text comes through, reasoning is cut off, calls that are written are read."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from chatplan.families import AnswerFormat, CallSyntax, built_in_formats

FORMATS = built_in_formats()
ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"city": "Zürich", "days": 3},
    {"text": 'quote " backslash \\ newline \n tab \t', "code": "if x { y[0] }; // ]}"},
    {"nested": {"list": [1, 2.5, None, True, {"deep": []}]}, "雪": "𝄞 é"},
    {"tags": "</tool_call> </think> <think> [/ARGS] ``` \n", "empty": ""},
]
PLAIN = ["", " ", "\n\n", "Hello.", "  two\n\nlines \n", "a < b && c > d [1] {x} `y` \\ é 𝄞", "[link](x) f(a=1) {}"]

pytestmark = pytest.mark.dev_only
every_format = pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
with_reasoning = pytest.mark.parametrize(
    "form", [pytest.param(form, id=name) for name, form in FORMATS.items() if form.reasoning]
)
with_calls = pytest.mark.parametrize(
    "form", [pytest.param(form, id=name) for name, form in FORMATS.items() if form.calls]
)


def written(syntax: CallSyntax, calls: list[tuple[str, Any]]) -> str:
    bodies = [
        syntax.begin_of(name) + json.dumps(arguments, ensure_ascii=False) + syntax.end for name, arguments in calls
    ]
    return syntax.start + syntax.separator.join(bodies) + syntax.stop


def thought(form: AnswerFormat, text: str) -> str:
    assert form.reasoning is not None
    return form.reasoning.open + text + form.reasoning.close


@every_format
def test_transformers_takes_the_template(form: AnswerFormat) -> None:
    from transformers.utils.chat_parsing.response_templates import load_response_template

    load_response_template(dict(form.response_template))


@every_format
@pytest.mark.parametrize("text", PLAIN)
def test_text_without_marks_comes_through(form: AnswerFormat, text: str, read: Callable[..., Any]) -> None:
    ends_thought = "<think></think>" if form.name == "deepseek_r1" else ""  # it thinks until told otherwise
    assert read(form, text.lstrip() if ends_thought else text, prefix="question" + ends_thought) == (
        "",
        text.lstrip() if ends_thought else text,
        [],
    )


@every_format
def test_an_answer_stuck_in_line_breaks_is_read_in_time(form: AnswerFormat) -> None:
    from transformers.utils.chat_parsing import ResponseParser

    parser = ResponseParser(dict(form.response_template), prefix="")
    start = time.process_time()  # a busy machine takes none of it
    for _ in range(2000):
        parser.feed("\n")
    parser.finalize()
    assert time.process_time() - start < 4  # patterns that try every way to split the breaks take ten


@with_reasoning
def test_reasoning_then_text(form: AnswerFormat, read: Callable[..., Any]) -> None:
    assert read(form, thought(form, "\nWell, 1 < 2\n\nso.\n") + "\n\nIt  is.\n") == (
        "Well, 1 < 2\n\nso.",
        "It  is.\n",
        [],
    )
    assert read(form, thought(form, "")) == ("", "", [])


@with_reasoning
def test_reasoning_that_never_ends(form: AnswerFormat, read: Callable[..., Any]) -> None:
    assert form.reasoning is not None
    assert read(form, form.reasoning.open + "\nWell, 1 <") == ("Well, 1 <", "", [])


@with_reasoning
@pytest.mark.parametrize("gap", ["", "\n", "\n\n"])
def test_an_opening_at_the_end_of_the_prompt_counts(form: AnswerFormat, gap: str, read: Callable[..., Any]) -> None:
    assert form.reasoning is not None
    start, end = form.reasoning.open, form.reasoning.close
    question = f"Explain {start} in\n\na {start}word{end}, or {end} two\n"
    assert read(form, f"Well.\n{end}\n\nIt is.", prefix=question + start + gap) == ("Well.", "It is.", [])
    assert read(form, "It is.", prefix=question + start + gap + end + gap) == ("", "It is.", [])


@with_calls
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=["none", "plain", "escapes", "nested", "marks"])
def test_one_call(form: AnswerFormat, arguments: Any, read: Callable[..., Any]) -> None:
    assert form.calls is not None
    prefix = "<think></think>" if form.name == "deepseek_r1" else ""
    calls = [("get-weather_2", arguments)]
    assert read(form, written(form.calls, calls), prefix) == ("", "", calls)


@with_calls
def test_calls_in_a_row(form: AnswerFormat, read: Callable[..., Any]) -> None:
    assert form.calls is not None
    prefix = "<think></think>" if form.name == "deepseek_r1" else ""
    for several in ([("f", arguments) for arguments in ARGUMENTS], [("a", {}), ("b", {"x": "y"})]):
        assert read(form, written(form.calls, several), prefix) == ("", "", several)


@with_calls
@pytest.mark.parametrize("after", ["", "\n", " \n\n"])
def test_text_then_calls(form: AnswerFormat, after: str, read: Callable[..., Any]) -> None:
    assert form.calls is not None
    calls = [("f", {"x": [1]}), ("g", {})]
    text = "Let me\n\nsee. " + after + written(form.calls, calls) + after
    prefix = "<think></think>" if form.name == "deepseek_r1" else ""
    assert read(form, text, prefix) == ("", "Let me\n\nsee.", calls)


@with_calls
def test_reasoning_then_calls(form: AnswerFormat, read: Callable[..., Any]) -> None:
    if form.reasoning is None or form.calls is None:
        return
    calls = [("f", {"x": "y"})]
    assert read(form, thought(form, "Hm.") + "\n\n" + written(form.calls, calls)) == ("Hm.", "", calls)


@with_calls
def test_what_streams_is_an_object_with_the_key(form: AnswerFormat) -> None:
    field = form.response_template["fields"]["tool_calls"]
    assert (form.stream_key is None) == ("{content}" in str(field["transform"]) or "tool_name" in str(field))
    if form.stream_key:
        assert form.calls is not None
        assert f'"{form.stream_key}": ' in form.calls.begin


@with_reasoning
def test_a_format_without_its_reasoning(form: AnswerFormat, read: Callable[..., Any]) -> None:
    plain = form.without_reasoning()
    assert plain.reasoning is None
    assert "reasoning_content" not in plain.response_template["fields"]
    assert read(plain, "Hello.\n") == ("", "Hello.\n", [])
