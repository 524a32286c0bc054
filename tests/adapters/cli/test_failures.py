"""Each error is one line with the right exit code, and ``--debug`` shows where it comes from."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import forked
import pytest
import typer
from waiting import wait_until

from chatplan import errors
from chatplan.adapters.cli import main
from chatplan.adapters.cli.failures import exit_code, one_line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["exlain"], "error: no such command 'exlain'; did you mean 'explain'?; try `chatplan --help`"),
        (["--bogus"], "no such option: --bogus"),
        (["--debg", "schema"], "--debug"),
        (["explain"], "missing argument"),
        (["explain", "x", "--modle", "m"], "--model"),
        (["chat", "--temprature", "0"], "--temperature"),
        (["chat", "--max-model-len", "few"], "--max-model-len"),
        (["run"], "try `chatplan run --help`"),
        (["schema", "reply"], "'reply' is not one of"),
        (["keys", "craete"], "did you mean 'create'?"),
        (["keys", "list", "--file", "no/such.json"], "no/such.json"),
        (["chat", "--plugin", "no.such.plugin"], "no.such.plugin"),
        (["chat", "--disable", "nothing"], "disable names nothing"),
        (["plugins", "--plugin", "no.such.plugin"], "no.such.plugin"),
        (["doctor", "--plugin", "no.such.plugin"], "no.such.plugin"),
    ],
)
def test_wrong_usage_is_one_line_with_code_2(arguments: list[str], line: str, refusal: Callable[..., str]) -> None:
    assert line in refusal(*arguments, stdin="")


def test_debug_alone_is_wrong_usage(invoke: Callable[..., Any]) -> None:
    assert invoke("--debug").exit_code == 2


def test_debug_shows_the_trace_before_the_line(invoke: Callable[..., Any]) -> None:
    result = invoke("--debug", "run", "no/such.json")
    assert result.exit_code == 2
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1] == "error: no/such.json: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RequestError("x"), 2),
        (errors.UnsupportedFieldError("x", "y"), 2),
        (errors.PluginError("x"), 2),
        (errors.EngineError("x"), 1),
        (errors.OverloadedError("x"), 1),
        (errors.AuthenticationError("x"), 1),
        (errors.TooLargeError("x"), 2),
        (typer.BadParameter("x"), 2),
        (typer.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_an_error_that_nobody_expected_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, one_line():
        raise RuntimeError("out of\nmemory")
    assert left.value.exit_code == 1
    assert capsys.readouterr().err == "error: RuntimeError: out of memory; `chatplan --debug …` shows where\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file", "a.json"), "error: a.json: No such file"),
        (OSError(28, "No space left"), "error: No space left"),
        (errors.EngineError("broke", param="m"), "error: m: broke"),
        (typer.BadParameter("Value error, Not so.\nDid you mean b?"), "error: invalid value: Not so; did you mean b?"),
        (typer.Abort(), "stopped"),
    ],
)
def test_the_line_of_an_error(error: BaseException, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, one_line():
        raise error
    assert left.value.exit_code == exit_code(error)
    assert capsys.readouterr().err == f"{line}\n"


def test_leaving_with_a_code_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as left, one_line(debug=True):
        raise typer.Exit(7)
    assert (left.value.exit_code, capsys.readouterr().err) == (7, "")


def test_without_the_servers_packages_serve_names_the_extra(
    refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "chatplan.adapters.server.commands", None)
    assert "pip install chatplan[serve]" in refusal("serve", "m")


@pytest.mark.parametrize("arguments", [["schema"], ["--help"]])
def test_a_closed_output_ends_quietly(arguments: list[str], environment: dict[str, str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "chatplan", *arguments], stdout=writing, stderr=subprocess.PIPE, env=environment,
        timeout=100
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_a_full_disk_is_one_line(command: Callable[..., Any]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no disk that is always full")
    with open("/dev/full", "w") as full:
        done = command("schema", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


LOADS = """
import time, transformers
from pathlib import Path
from chatplan.adapters.cli import main

def from_pretrained(*given, **more):
    Path(BEGUN).touch()
    time.sleep(100)

transformers.AutoModelForCausalLM.from_pretrained = from_pretrained
main()
"""


def test_ctrl_c_while_the_model_loads(weights: Path, environment: dict[str, str], tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    program = LOADS.replace("BEGUN", repr(str(begun)))
    line = ["-c", program, "chat", weights, "--prompt", "Hi"]
    running = forked.Popen(line, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)
    try:
        wait_until(lambda: begun.exists() or running.poll() is not None, what="the model begins to load")
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (running.returncode, told) == (130, "stopped\n")


def test_ctrl_c_while_modules_load(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Loading(ModuleType):
        @property
        def app(self) -> Any:
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setitem(sys.modules, "chatplan.adapters.cli.commands", Loading("commands"))
    try:
        with pytest.raises(SystemExit) as left:
            main()
        after = signal.getsignal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (left.value.code, capsys.readouterr().err) == (130, "stopped\n")
    assert after == signal.SIG_DFL  # a second one ends it at once


# --- models and servers that are not there ----------------------------------------------------------------------------


def test_a_missing_model_is_one_line_with_code_1(refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "/no/such: there is no such folder" in refusal("chat", "/no/such", "--prompt", "Hi", code=1)
    assert "no/such: cannot be loaded" in refusal("chat", "no/such", "--prompt", "Hi", code=1)
    (tmp_path / "config.json").write_text("{}", "utf-8")
    assert "cannot be loaded" in refusal("chat", tmp_path, "--prompt", "Hi", code=1)


@pytest.mark.dev_only
def test_a_server_that_is_not_there_is_one_line_with_code_1(refusal: Callable[..., str]) -> None:
    assert "127.0.0.1:9" in refusal("chat", "http://127.0.0.1:9", "--prompt", "Hi", code=1)


@pytest.mark.dev_only
def test_serve_says_in_one_line_why_it_cannot_begin(weights: Path, refusal: Callable[..., str], tmp_path: Path) -> None:
    assert "did you mean --port?" in refusal("serve", weights, "--prot", "3")
    assert "there is no such folder" in refusal("serve", "/no/such", code=1)
    assert "has no config.json" in refusal("serve", tmp_path, code=1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1: another program uses it" in refusal("serve", weights, "--port", port, code=1)
