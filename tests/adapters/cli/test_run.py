"""``chatplan run``: one request, or a file of them that is resumed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatplan import Chat
from chatplan.adapters.cli.printing import print_whole
from chatplan.response import ChatCompletion, ChatMessage, Choice

HI = [{"role": "user", "content": "Hi"}]
REQUEST = {"messages": HI, "temperature": 0, "max_tokens": 6, "ignore_eos": True}


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps(REQUEST), "utf-8")
    return path


@pytest.fixture
def lines_file(tmp_path: Path) -> Path:
    """A bare request, and one in batch format."""
    path = tmp_path / "requests.jsonl"
    entry = {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": REQUEST}
    path.write_text(f"{json.dumps(REQUEST)}\n{json.dumps(entry)}\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def answer(tiny: Chat) -> str:
    return tiny.complete(REQUEST).text


def answers(path: Path) -> dict[str, Any]:
    lines = map(json.loads, path.read_text("utf-8").splitlines())
    return {line["custom_id"]: line["response"] for line in lines}


def test_the_text_of_one_answer(invoke: Callable[..., Any], weights: Path, request_file: Path, answer: str) -> None:
    assert invoke("run", request_file, "--model", weights).stdout == f"{answer}\n"
    assert invoke("run", "-", "--model", weights, stdin=json.dumps(REQUEST)).stdout == f"{answer}\n"
    assert invoke("run", request_file, "--model", weights, "--stream").stdout == f"{answer}\n"


def test_the_whole_answer(invoke: Callable[..., Any], weights: Path, request_file: Path, answer: str) -> None:
    whole = json.loads(invoke("run", request_file, "--model", weights, "--json").stdout)
    assert (whole["object"], whole["choices"][0]["message"]["content"]) == ("chat.completion", answer)
    chunks = invoke("run", request_file, "--model", weights, "--json", "--stream").stdout.splitlines()
    assert {json.loads(chunk)["object"] for chunk in chunks} == {"chat.completion.chunk"}


def test_a_terminal_gets_no_characters_that_it_obeys(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    choice = Choice(index=0, message=ChatMessage(content="a\x1b[2Jb"))
    completion = ChatCompletion(id="1", created=0, model="m", choices=[choice])
    print_whole(completion)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_whole(completion)
    assert capsys.readouterr().out == "a\x1b[2Jb\na\ufffd[2Jb\n"


def test_flags_win_over_the_file(invoke: Callable[..., Any], weights: Path, request_file: Path) -> None:
    flags = ("--max-tokens", "2", "--set", "n=2")
    whole = json.loads(invoke("run", request_file, "--model", weights, "--json", *flags).stdout)
    assert len(whole["choices"]) == 2
    assert whole["usage"]["completion_tokens"] == 4


def test_a_file_of_requests(
    invoke: Callable[..., Any], weights: Path, lines_file: Path, answer: str, tmp_path: Path
) -> None:
    result = invoke("run", lines_file, "--model", weights)
    assert (result.exit_code, result.stdout) == (0, "")
    output = tmp_path / "requests.answers.jsonl"
    assert "2 answered; 12 tokens in " in result.stderr
    assert result.stderr.rstrip().endswith(str(output))
    found = answers(output)
    assert list(found) == ["line-1", "b"]
    assert {response["body"]["choices"][0]["message"]["content"] for response in found.values()} == {answer}
    assert "is complete already" in invoke("run", lines_file, "--model", weights).stderr


def test_other_fields_are_another_job(
    invoke: Callable[..., Any], refusal: Callable[..., str], weights: Path, lines_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out.jsonl"
    arguments = ["run", lines_file, "--model", weights, "--output", output]
    assert invoke(*arguments).exit_code == 0
    assert "--restart replaces it" in refusal(*arguments, "--max-tokens", "1")
    assert invoke(*arguments, "--max-tokens", "1", "--restart").exit_code == 0
    assert {response["body"]["usage"]["completion_tokens"] for response in answers(output).values()} == {1}


def test_standard_input_may_have_a_request_a_line(
    invoke: Callable[..., Any], refusal: Callable[..., str], weights: Path, lines_file: Path, tmp_path: Path
) -> None:
    text, output = lines_file.read_text("utf-8"), tmp_path / "out.jsonl"
    assert invoke("run", "-", "--model", weights, "--output", output, stdin=text).exit_code == 0
    assert list(answers(output)) == ["line-1", "b"]
    assert "--output: " in refusal("run", "-", "--model", weights, stdin=text)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.json", "{", "a.json: is not JSON"),
        ("a.json", "[" * 200_000, "a.json: is nested too deeply"),
        ("a.json", "3", "a.json: should be a request"),
        ("a.json", "{}", "messages: is required"),
        ("a.json", '{"messages": []}', "messages: "),
        ("a.jsonl", "", "a.jsonl: has no requests"),
        ("a.jsonl", '{"messages": []}\nnothing\n', "a.jsonl: line 2: is not JSON"),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "\\ud800"}]}', "a.jsonl: line 1: is not JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(
    name: str, text: str, line: str, refusal: Callable[..., str], weights: Path, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(text, "utf-8")
    assert line in refusal("run", tmp_path / name, "--model", weights)


def test_options_for_the_other_kind_of_file_are_refused(
    refusal: Callable[..., str], request_file: Path, lines_file: Path, weights: Path
) -> None:
    assert "--output" in refusal("run", request_file, "--model", weights, "--restart")
    assert "--json" in refusal("run", lines_file, "--model", weights, "--json")
    assert "a .jsonl needs a checkpoint" in refusal("run", lines_file, "--model", "http://127.0.0.1:9")
    assert "--api-key: is for a server" in refusal("run", lines_file, "--model", weights, "--api-key", "x")


@pytest.mark.parametrize("name", ["empty", "missing"])
def test_a_model_that_does_not_load_is_failed_work(
    refusal: Callable[..., str], request_file: Path, lines_file: Path, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (("run", request_file), ("run", lines_file), ("explain", request_file)):
        assert f"error: {tmp_path / name}: " in refusal(*arguments, "--model", tmp_path / name, code=1)
