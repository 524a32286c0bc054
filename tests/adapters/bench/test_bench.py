"""``chatplan bench`` against a real server, and with a model of its own."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pytest
from transformers import LlamaForCausalLM
from typer import Typer
from typer.testing import CliRunner
from waiting import wait_until

from chatplan import Chat, EngineError, RequestError
from chatplan.adapters.bench.commands import bench
from chatplan.adapters.cli import app as chatplan_app
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only  # the server and the openai client come with extras
app = Typer()
app.command()(bench)


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], slow_chat: Chat) -> Iterator[Any]:
    """A server with the tiny model."""
    with serve(slow_chat) as running:
        yield running


@pytest.fixture
def fields(tmp_path: Path) -> Callable[..., str]:
    """Writes a file of request fields, and names it: ``fields(ignore_eos=True)``."""

    def write(**values: Any) -> str:
        (tmp_path / "fields.json").write_text(json.dumps(values), "utf-8")
        return str(tmp_path / "fields.json")

    return write


def run(*arguments: Any) -> str:
    """What the command prints; raises what it raises."""
    result = CliRunner().invoke(app, [str(item) for item in arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


def test_all_that_was_asked_is_counted_told_and_drawn(server: Any, fields: Callable[..., str], tmp_path: Path) -> None:
    out, png = tmp_path / "out.json", tmp_path / "out.png"
    more = ["--request", fields(ignore_eos=True), "--json", out, "--plot", png]
    table = run(server.url, "--concurrency", "1,3", "--requests", 4, "--max-tokens", 5, "--prompt-tokens", 12, *more)
    found = json.loads(out.read_text("utf-8"))
    assert [level["concurrency"] for level in found["levels"]] == [1, 3]
    for level in found["levels"]:
        assert (level["requests"], level["errors"], level["output_tokens"]) == (4, 0, 4 * 5)
        assert len(level["samples"]) == 4
        assert sum(sample["output_tokens"] for sample in level["samples"]) == 20
        assert level["prompt_tokens"] == sum(sample["prompt_tokens"] for sample in level["samples"]) > 0
        assert level["tokens_per_s"] == pytest.approx(20 / level["seconds"], rel=0.02)
        for sample in level["samples"]:
            assert 0 < sample["ttft_ms"] <= sample["latency_ms"]
    assert found["request"]["seed"] == 0
    assert "tokens/s" in table
    header = png.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (1200, 450)


def test_one_client_asks_one_request_after_the_other(server: Any, fields: Callable[..., str], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    run(server.url, "--concurrency", "1", "--requests", 3, "--request", fields(max_tokens=3), "--json", out)
    samples = json.loads(out.read_text("utf-8"))["levels"][0]["samples"]
    for before, after in itertools.pairwise(samples):
        assert after["start_ms"] >= before["start_ms"] + before["latency_ms"] - 0.01


def test_a_prompt_can_be_a_file(server: Any, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("Hello", "utf-8")
    options = ("--prompt", tmp_path / "prompt.txt", "--json", tmp_path / "out.json", "--max-tokens", 2)
    run(server.url, "--concurrency", "2", "--requests", 2, *options)
    samples = json.loads((tmp_path / "out.json").read_text("utf-8"))["levels"][0]["samples"]
    assert len({sample["prompt_tokens"] for sample in samples}) == 1


def test_a_checkpoint_runs_in_this_process(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    model, out = tmp_path / "model", tmp_path / "out.json"
    tiny_model.save_pretrained(model)
    stand_in().tokenizer.save_pretrained(model)
    run(model, "--concurrency", "1,2", "--requests", 3, "--max-tokens", 4, "--prompt-tokens", 8, "--json", out)
    found = json.loads(out.read_text("utf-8"))
    assert found["engine"] == "continuous"
    assert [(level["requests"], level["errors"]) for level in found["levels"]] == [(3, 0), (3, 0)]


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_one_line() -> None:
    with pytest.raises(EngineError, match="cannot be reached") as caught:
        run("http://127.0.0.1:9", "--requests", 1)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(EngineError):
        run(tmp_path / "nothing")


def test_a_password_in_the_address_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        run("http://me:secret@127.0.0.1:9", "--requests", 1)
    assert "secret" not in str(caught.value)


def test_a_refused_field_ends_it_before_anything_is_measured(server: Any, fields: Callable[..., str]) -> None:
    with pytest.raises(RequestError) as caught:
        run(server.url, "--request", fields(temperature=-1))
    assert caught.value.param == "temperature"


def test_when_nothing_is_answered_the_table_counts_it_and_the_command_fails(
    server: Any, fields: Callable[..., str]
) -> None:
    command = [server.url, "--concurrency", "2", "--requests", "3", "--warm-up", "0", "--request", fields(fail=True)]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, EngineError)
    assert "none of 3 requests was answered" in str(result.exception)
    assert "3 failed" in result.output


def test_a_level_ends_when_its_time_is_over(server: Any, fields: Callable[..., str], tmp_path: Path) -> None:
    server.wait_idle(60)
    endless = ("--request", fields(slow=0.1, max_tokens=800, ignore_eos=True))
    options = ("--warm-up", 0, "--prompt-tokens", 1, "--seconds", 0.5, "--json", tmp_path / "out.json", *endless)
    result = CliRunner().invoke(app, [server.url, "--concurrency", "1", "--requests", "1000", *map(str, options)])
    assert str(result.exception) == "none of 1 requests was answered; the first: stopped: the level had 0.5 s"
    (level,) = json.loads((tmp_path / "out.json").read_text("utf-8"))["levels"]
    assert (level["requests"], level["errors"], level["output_tokens"]) == (1, 1, 0)
    server.wait_idle(60)  # the server, too, is told to stop


def test_ctrl_c_shows_what_was_measured(server: Any, fields: Callable[..., str], tmp_path: Path) -> None:
    slow = fields(slow=0.05, max_tokens=4, ignore_eos=True)
    options = ["--concurrency", "1", "--requests", "1000", "--json", str(tmp_path / "out.json"), "--request", slow]
    server.wait_idle(60)
    seen: set[str] = set()

    def three() -> bool:
        """Two are for the warm-up; the fourth of the others begins when three are answered."""
        seen.update(server.service.under_way)
        return len(seen) >= 6 or process.poll() is not None

    command = ["-m", "chatplan", "bench", server.url, *options]
    process = forked.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(three, what="three answers")
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    (level,) = json.loads((tmp_path / "out.json").read_text("utf-8"))["levels"]
    assert 3 <= level["requests"] < 1000
    assert level["output_tokens"] == 4 * level["requests"]
    assert "tokens/s" in printed
    assert told.splitlines()[-1] == "stopped"
    assert "Traceback" not in told
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,,2"),
        ("--concurrency", "5000"),
        ("--prompt", "/nothing/there"),
        ("--request", "/nothing/there"),
        ("--json", "/nothing/there.json"),
        ("--plot", "/tmp"),
    ],
)
def test_a_wrong_option_is_refused_by_name(option: str, value: str) -> None:
    with pytest.raises(RequestError) as caught:
        run("http://127.0.0.1:9", option, value)
    assert caught.value.param == option


@pytest.mark.parametrize(
    ("target", "option"),
    [("http://h", "--engine"), ("http://h", "--dtype"), ("./folder", "--model-name"), ("./folder", "--api-key")],
)
def test_an_option_for_the_other_kind_of_target_is_refused(
    target: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATPLAN_API_KEY", raising=False)
    with pytest.raises(RequestError) as caught:
        run(target, option, "float16")
    assert caught.value.param == option


@pytest.mark.parametrize("text", ["[1]", "{", "5"])
def test_a_file_of_fields_has_to_be_an_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "fields.json").write_text(text, "utf-8")
    with pytest.raises(RequestError) as caught:
        run("http://127.0.0.1:9", "--request", tmp_path / "fields.json")
    assert caught.value.param == "--request"


@pytest.mark.parametrize(("package", "extra", "url"), [("matplotlib", "plot", "m"), ("openai", "remote", "http://h")])
def test_a_missing_package_is_named_with_its_extra(
    package: str, extra: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    done = CliRunner().invoke(chatplan_app, ["bench", url, *(["--plot", "out.png"] if extra == "plot" else [])])
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"chatplan[{extra}]" in done.stderr
