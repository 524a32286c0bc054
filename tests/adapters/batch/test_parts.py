"""The parts of a job by themselves: what is counted and told, what an id is made of, who is who."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatplan import Chat, RequestError
from chatplan.adapters.batch import answering, progress
from chatplan.adapters.batch.answering import Answering, name_calls
from chatplan.adapters.batch.commands import _field
from chatplan.adapters.batch.lines import Line, check_file, output_line, read_lines
from chatplan.adapters.batch.options import Options
from chatplan.adapters.batch.processes import device_of, is_first, together
from chatplan.adapters.batch.running import Summary
from chatplan.response import ChatCompletion
from chatplan.settings import Settings

Files = Any
LINE = Line(1, b'{"custom_id": "a"}')


# --- the summary ------------------------------------------------------------------------------------------------------


def line_of(status: int, tokens: int = 3) -> bytes:
    body = {"usage": {"completion_tokens": tokens}} if status == 200 else {}
    return json.dumps({"response": {"status_code": status, "body": body}}).encode()


def test_lines_are_counted_by_status_and_tokens_are_those_of_this_run() -> None:
    summary = Summary(before={0})
    for batch, status in [(0, 200), (0, 400), (1, 200), (1, 200), (1, 404), (2, 499), (2, 500), (2, 503)]:
        summary.look(batch, line_of(status))
    assert (summary.answered, summary.refused, summary.failed) == (3, 3, 2)
    assert (summary.resumed, summary.tokens) == (2, 6)


@pytest.mark.parametrize(
    ("summary", "text"),
    [
        (Summary(answered=2, tokens=30, seconds=4.0), "2 answered; 30 tokens in 4.0 s, 8 tokens/s"),
        (Summary(refused=1), "0 answered, 1 refused; 0 tokens in 0.0 s, none now"),
        (Summary(3, 0, 2, 4, 5, 1.0), "3 answered, 2 failed, 4 of them before; 5 tokens in 1.0 s, 5 tokens/s"),
    ],
)
def test_a_summary_is_one_line(summary: Summary, text: str) -> None:
    assert str(summary) == text


# --- ids --------------------------------------------------------------------------------------------------------------

OPTIONS = Options("m")


RUNNING: dict[str, Any] = {"batch_size": 3, "max_num_seqs": 7, "max_num_batched_tokens": 99, "kv_cache_bytes": 1 << 30,
                           "enable_prefix_caching": False, "pack_weights": False}  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        replace(OPTIONS, engine="continuous"),
        replace(OPTIONS, device_map="auto"),
        *(replace(OPTIONS, settings=Settings(**{name: value})) for name, value in RUNNING.items()),
    ],
    ids=["engine", "device_map", *RUNNING],
)
def test_how_a_job_runs_is_not_in_the_ids_of_its_lines(other: Options) -> None:
    assert other.line_id(LINE) == OPTIONS.line_id(LINE)


def test_what_may_change_an_answer_is_in_the_ids_of_its_lines() -> None:
    others = [Options("n"), replace(OPTIONS, served_model_name="n"), replace(OPTIONS, dtype="float16"),
              replace(OPTIONS, plugins=("p",)), replace(OPTIONS, disable=("p",)), replace(OPTIONS, defaults={"n": 2}),
              replace(OPTIONS, settings=Settings(max_logprobs=3))]  # fmt: skip
    ids = {options.line_id(LINE) for options in [OPTIONS, *others]}
    assert len(ids) == 8
    assert OPTIONS.line_id(Line(1, b"other")) not in ids
    assert OPTIONS.line_id(replace(LINE, number=9)) in ids
    assert OPTIONS.line_id(LINE).startswith("batch_req_")


def test_options_are_the_same_when_they_were_in_a_file() -> None:
    options = replace(OPTIONS, plugins=("p",), defaults={"stop": ("a",)})
    assert options.to_dict() == json.loads(json.dumps(options.to_dict()))
    assert options.to_dict().keys() == {field.name for field in dataclasses.fields(Options)}


def test_calls_of_tools_are_named_by_answer_choice_and_place() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    choices = [{"index": at, "message": {"tool_calls": [call] * 2}} for at in range(2)]
    completion = ChatCompletion.model_validate({"id": "chatcmpl-x", "created": 0, "model": "m", "choices": choices})
    name_calls(completion)
    ids = [call.id for choice in completion.choices for call in choice.message.tool_calls]
    assert ids == [f"chatcmpl-tool-x-{choice}-{at}" for choice in range(2) for at in range(2)]


def test_a_line_of_the_output_is_in_ascii() -> None:
    line = Line(1, json.dumps({"custom_id": "é", "method": "POST", "url": "/v1/chat/completions", "body": {}}).encode())
    text = output_line(line, "i", "r", 200, {"a": "\u2028"})
    assert text.isascii()
    assert text.endswith("}\n")
    response = {"status_code": 200, "request_id": "r", "body": {"a": "\u2028"}}
    assert json.loads(text) == {"id": "i", "custom_id": "é", "response": response, "error": None}


# --- the input --------------------------------------------------------------------------------------------------------


def test_a_file_is_known_by_all_of_its_bytes_and_its_age(tmp_path: Path) -> None:
    entry = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}).encode()
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + entry + b" \r\n\n")
    os.utime(path, (1, 1_700_000_000))
    found = check_file(path)
    assert (found.requests, found.modified) == (1, 1_700_000_000)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [line.raw for line in read_lines(path)] == [entry]


@pytest.mark.parametrize(
    ("text", "field"),
    [("n=2", ("n", 2)), ("stop=x", ("stop", "x")), ("user=a=b", ("user", "a=b")), ('stop="1"', ("stop", "1"))],
)
def test_a_default_is_json_or_text(text: str, field: tuple[str, Any]) -> None:
    assert _field(text) == field


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rank", "first"), [(None, True), ("0", True), ("1", False)])
def test_the_process_of_rank_0_speaks(rank: str | None, first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert is_first() is first


def test_processes_that_do_not_find_each_other_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with together() as state:
        assert (state.num_processes, state.is_main_process) == (1, True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RequestError, match="started 2 processes, and accelerate knows 1"), together():
        pass


def test_a_numbered_cpu_is_the_cpu() -> None:
    for given, device in ((torch.device("cpu", 1), "cpu"), (None, "cpu"), (torch.device("cuda", 1), "cuda:1")):
        assert str(device_of(SimpleNamespace(device=given))) == device


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.Told(11, 4) as told:
        (task,) = told._bar.tasks  # type: ignore[union-attr]
        assert (task.total, task.completed) == (11, 4)
        told.update(7)
        assert task.completed == 7


def test_elsewhere_a_line_comes_every_thirty_seconds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with progress.Told(9, 0) as told:
        for done, now[0] in enumerate([10.0, 29.9, 30.0, 31.0, 59.9, 60.0], 1):
            told.update(done)
    assert capsys.readouterr().err == "3 of 9 requests answered\n6 of 9 requests answered\n"


# --- an engine that takes requests at any step ------------------------------------------------------------------------


def test_an_engine_is_given_a_batch_more_than_it_runs(
    new_chat: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Answering(new_chat(max_num_seqs=2, batch_size=2), OPTIONS, 0)
    waits = []

    def wait(running: Iterable[Future[Any]], return_when: str) -> Any:
        running = list(running)
        waits.append(len(running))
        running[0].set_result(None)
        return SimpleNamespace(not_done=set(running[1:]))

    monkeypatch.setattr(answering, "wait", wait)
    job._make_room([Future() for _ in range(5)])
    job._make_room([Future() for _ in range(3)])
    assert waits == [5, 4]


def test_plugins_are_told_of_each_end(files: Files, ask: Callable[..., dict[str, Any]]) -> None:
    files.write([ask("a", ignore_eos=True), ask("b", trouble="fails")])
    assert files.run("--plugin", "trouble", "--batch-size", "1").exit_code == 0
    ended = sys.modules["trouble"].ended
    assert next((usage.completion_tokens, error) for trouble, usage, error in ended if trouble is None) == (6, None)
    failed = [(usage, type(error).__name__) for trouble, usage, error in ended if trouble == "fails"]
    assert failed == [(None, "EngineError")] * 2  # beside others, and once more alone
