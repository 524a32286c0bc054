"""What of an answer is printed: as it comes, and what is known at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatplan.adapters.cli.printing import Printer, print_whole
from chatplan.response import ChatCompletion, ChatCompletionChunk

CALL = {"id": "c", "type": "function", "function": {"name": "go", "arguments": '{"up": true}'}}


def chunk(index: int = 0, **delta: Any) -> ChatCompletionChunk:
    choice = {"index": index, "delta": delta}
    return ChatCompletionChunk.model_validate({"id": "1", "created": 0, "model": "m", "choices": [choice]})


def printed(capsys: pytest.CaptureFixture[str], decorated: bool, *chunks: ChatCompletionChunk) -> str:
    printer = Printer(decorated)
    assert printer.stream(chunks)
    printer.finish()
    return capsys.readouterr().out


def test_elsewhere_than_on_a_terminal_only_answers_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    chunks = [chunk(reasoning_content="hm"), chunk(content="a\x1b[2J"), chunk(content="b"), chunk(1, content="c")]
    assert printed(capsys, False, *chunks) == "a\x1b[2Jb\nc\n"


def test_a_terminal_shows_reasoning_and_the_number_of_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    chunks = [chunk(reasoning_content="h"), chunk(reasoning_content="m"), chunk(content="[b]a"), chunk(content="\x1bb"),
              chunk(1, reasoning_content="so"), chunk(1, content="c"), chunk(2, content="d")]  # fmt: skip
    assert printed(capsys, True, *chunks) == "hm\n[b]a\ufffdb\n[1]\nso\nc\n[2]\nd\n"


def test_an_answer_that_ends_its_line_gets_no_second_end(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, False, chunk(content="a\n")) == "a\n"


def test_the_first_choice_is_printed_before_the_second_chunk_comes(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []

    def come() -> Iterator[ChatCompletionChunk]:
        yield chunk(content="a")
        yield chunk(1, content="x")
        seen.append(capsys.readouterr().out)
        yield chunk(content="b")

    Printer(decorated=False).stream(come())
    assert seen == ["a"]


def test_tool_calls_are_printed_at_the_end_of_a_whole_answer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    called = chunk(content="so", tool_calls=[{"index": 0, **CALL}])
    assert printed(capsys, False, called) == 'so\n{"name": "go", "arguments": {"up": true}}\n'
    printer = Printer(decorated=False)
    printer.stream([called])
    assert printer.finish(whole=False) is not None
    assert capsys.readouterr().out == "so\n"


def test_ctrl_c_stops_printing_and_what_came_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    def stopped() -> Iterator[ChatCompletionChunk]:
        yield chunk(content="a")
        raise KeyboardInterrupt

    printer = Printer(decorated=False)
    assert not printer.stream(stopped())
    completion = printer.finish(whole=False)
    assert completion is not None
    assert completion.text == "a"
    assert capsys.readouterr().out == "a\n"


def test_nothing_is_no_answer() -> None:
    printer = Printer(decorated=False)
    assert printer.stream([])
    assert printer.finish() is None


def test_a_whole_answer_is_a_line_for_each_text_and_call(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {**CALL, "function": {"name": "é", "arguments": "{"}}
    messages: list[dict[str, Any]] = [{"content": "a"}, {"content": None, "tool_calls": [CALL, wrong]}, {"content": ""}]
    choices = [{"index": at, "message": message} for at, message in enumerate(messages)]
    print_whole(ChatCompletion.model_validate({"id": "1", "created": 0, "model": "m", "choices": choices}))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["a", '{"name": "go", "arguments": {"up": true}}', '{"name": "é", "arguments": "{"}', ""]
