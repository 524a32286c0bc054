"""``chatplan run``: one request, or a file of them that is resumed."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatplan import Chat
from chatplan.adapters.cli.printing import print_whole
from chatplan.adapters.cli.requests_file import batch_file, is_lines
from chatplan.errors import RequestError
from chatplan.folding import fold
from chatplan.response import ChatCompletion, ChatCompletionChunk, ChatMessage, Choice

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


def test_what_streams_in_the_file_streams_here(
    invoke: Callable[..., Any], weights: Path, request_file: Path, answer: str
) -> None:
    request_file.write_text(json.dumps({**REQUEST, "stream": True}), "utf-8")
    assert invoke("run", request_file, "--model", weights).stdout == f"{answer}\n"
    lines = invoke("run", request_file, "--model", weights, "--json").stdout.splitlines()
    chunks = [ChatCompletionChunk.model_validate_json(line) for line in lines]
    assert fold(chunks).text == answer


def test_a_list_is_the_messages_and_a_line_of_a_batch_a_request(
    invoke: Callable[..., Any], weights: Path, request_file: Path, answer: str
) -> None:
    flags = ("--temperature", "0", "--max-tokens", "6", "--ignore-eos")
    for data in (HI, {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": HI}}):
        request_file.write_text(json.dumps(data, indent=1), "utf-8")
        assert invoke("run", request_file, "--model", weights, *flags).stdout == f"{answer}\n"
        assert invoke("run", "-", "--model", weights, *flags, stdin=json.dumps(data, indent=1)).stdout == f"{answer}\n"


def test_the_model_has_the_name_and_the_settings_that_it_is_given(
    invoke: Callable[..., Any], refusal: Callable[..., str], weights: Path, request_file: Path, lines_file: Path
) -> None:
    whole = json.loads(invoke("run", request_file, "--model", weights, "--json", "--served-model-name", "m").stdout)
    assert whole["model"] == "m"
    assert invoke("run", lines_file, "--model", weights, "--served-model-name", "m").exit_code == 0
    bodies = [response["body"] for response in answers(lines_file.with_suffix(".answers.jsonl")).values()]
    assert [body["model"] for body in bodies] == ["m", "m"]
    flags = ("--model", weights, "--max-model-len", "8")
    assert "8" in refusal("run", request_file, *flags)
    assert invoke("run", lines_file, *flags, "--restart").exit_code == 0
    refused = answers(lines_file.with_suffix(".answers.jsonl")).values()
    assert [response["status_code"] for response in refused] == [400, 400]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--engine", "steam"], "steam"),
        (["--plugin", "no.such"], "no.such"),
        (["--disable", "nothing"], "disable names nothing"),
        (["--device-map", "{"], "--device-map: is not JSON"),
        (["--batch-size", "0"], "batch_size"),
    ],
)
def test_a_wrong_option_is_refused_for_both_kinds_of_file(
    flags: list[str], line: str, refusal: Callable[..., str], weights: Path, request_file: Path, lines_file: Path
) -> None:
    for file in (request_file, lines_file):
        assert line in refusal("run", file, "--model", weights, *flags)


def test_ctrl_c_in_a_file_of_requests_says_how_to_go_on(
    invoke: Callable[..., Any], weights: Path, lines_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*given: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("chatplan.adapters.batch.running.run_job", stopped)
    result = invoke("run", lines_file, "--model", weights)
    assert (result.exit_code, result.stderr) == (130, "stopped; the same command goes on from here\n")


@pytest.mark.parametrize("stream", [False, True])
def test_ctrl_c_in_an_answer_is_stopped_work(
    invoke: Callable[..., Any], weights: Path, request_file: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    def stopped(*given: Any) -> Any:
        raise KeyboardInterrupt

    closed: list[Chat] = []
    monkeypatch.setattr("chatplan.chat.Chat.complete", stopped)
    monkeypatch.setattr("chatplan.adapters.cli.printing.Printer.stream", lambda printer, chunks: False)
    monkeypatch.setattr("chatplan.chat.Chat.close", lambda chat: closed.append(chat))
    result = invoke("run", request_file, "--model", weights, *(["--stream"] if stream else []))
    assert (result.exit_code, result.stderr) == (130, "stopped\n")
    assert len(closed) == 1


def test_flags_win_over_the_file(invoke: Callable[..., Any], weights: Path, request_file: Path) -> None:
    flags = ("--max-tokens", "2", "--set", "n=2")
    whole = json.loads(invoke("run", request_file, "--model", weights, "--json", *flags).stdout)
    assert len(whole["choices"]) == 2
    assert whole["usage"]["completion_tokens"] == 4
    request_file.write_text(json.dumps({**REQUEST, "logprobs": True}), "utf-8")
    plain = json.loads(invoke("run", request_file, "--model", weights, "--json", "--no-logprobs").stdout)
    assert plain["choices"][0]["logprobs"] is None


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


# --- which kind of file it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [
        ("a.jsonl", "", True),
        ("a.ndjson", "", True),
        ("a.json", "{}\n{}", False),
        ("-", "{}", False),
        ("-", "{}\n\n", False),
        ("-", "\n{}\n{}", True),
        ("-", '{\n"a": 1}', False),
        ("-", "[1]\n[2]", False),
    ],
)
def test_a_request_a_line_is_known_by_the_name_or_by_what_is_there(name: str, text: str, lines: bool) -> None:
    assert is_lines(Path(name), text) is lines


def test_each_line_becomes_one_of_a_batch_of_the_same_age(tmp_path: Path) -> None:
    source = tmp_path / "in.jsonl"
    entry = {"custom_id": "b", "method": "POST", "url": "/v1/chat/completions", "body": {"n": 1, "seed": 1}}
    text = "\ufeff" + '{"user": "a\u2028b"}\nno json\n' + json.dumps(entry) + '\n{"body": 3}\n'
    source.write_text(text, "utf-8")
    os.utime(source, (5, 1_700_000_000))
    with batch_file(source, text, {"n": 2}) as made:
        first, wrong, last, other = made.read_text("utf-8").split("\n")[:-1]
        assert (made.name, made.stat().st_mtime) == ("in.jsonl", 1_700_000_000)
    assert json.loads(first) == {"custom_id": "line-1", "method": "POST", "url": "/v1/chat/completions",
                                 "body": {"user": "a\u2028b", "n": 2}}  # fmt: skip
    assert wrong == "no json"
    assert json.loads(last) == {**entry, "body": {"n": 2, "seed": 1}}
    assert json.loads(other) == {"body": 3}
    with batch_file(source, text, {}) as made:
        assert made.read_text("utf-8").split("\n")[2] == json.dumps(entry)
    assert not made.exists()


@pytest.mark.parametrize(("name", "param"), [("in.jsonl", "in.jsonl"), ("-", "standard input")])
def test_what_is_wrong_with_the_copy_is_told_of_the_file(
    name: str, param: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").touch()
    for wrong, told in ((None, param), ("--output", "--output")):
        with pytest.raises(RequestError) as caught, batch_file(Path(name), "", {}) as made:
            raise RequestError("is wrong", param=wrong or str(made))
        assert caught.value.param == told
