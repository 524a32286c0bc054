"""A tiny checkpoint on disk, and the command as a person starts it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import forked
import pytest
from transformers import LlamaForCausalLM
from typer.testing import CliRunner, Result

from chatplan.adapters.cli import app
from chatplan.standin import stand_in

# A terminal to type into needs an extra, which the oldest transformers is tested without.
collect_ignore = [] if find_spec("pexpect") and find_spec("prompt_toolkit") else ["terminal"]

PLUGIN = """
import time
from transformers import LogitsProcessor
from chatplan import Stage, hookimpl

class Sleep(LogitsProcessor):
    def __init__(self, seconds):
        self.seconds = seconds

    def __call__(self, input_ids, scores):
        time.sleep(self.seconds)
        return scores

@hookimpl
def request_fields():
    return {"slow": float}

@hookimpl
def logits_processors(request):
    return [(Stage.BIAS, Sleep(request.slow))] if request.slow else None
"""


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny_model: LlamaForCausalLM) -> Path:
    """A checkpoint with weights; beside it is the plugin ``slow_field``, whose field ``slow`` is seconds a token."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    tokenizer: Any = stand_in().tokenizer
    tokenizer.save_pretrained(folder)
    (folder.parent / "slow_field.py").write_text(PLUGIN, "utf-8")
    return folder


@pytest.fixture(scope="session")
def environment(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """That of a new process: the plugin can be imported, and lines are remembered in a folder of the test's own."""
    own = {"PYTHONPATH": str(weights.parent), "XDG_STATE_HOME": str(tmp_path_factory.mktemp("state")),
           "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "100", "TERM": "xterm"}  # fmt: skip
    return {name: value for name, value in os.environ.items() if name != "CHATPLAN_MODEL"} | own


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def command(environment: dict[str, str]) -> Command:
    """Runs ``chatplan`` in a process of its own."""

    def call(*arguments: Any, **more: Any) -> subprocess.CompletedProcess[str]:
        given = {"env": environment, "capture_output": True, "text": True, "timeout": 100, **more}
        return forked.run(["-m", "chatplan", *arguments], **given)

    return call


Invoke = Callable[..., Result]


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Runs a command in this process, which has torch loaded."""
    for name, value in {"COLUMNS": "200", "HF_HUB_OFFLINE": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CHATPLAN_MODEL", raising=False)

    def call(*arguments: Any, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin, prog_name="chatplan")

    return call


@pytest.fixture
def refusal(invoke: Invoke) -> Callable[..., str]:
    """The only line of output of a command that ends with ``code``."""

    def call(*arguments: Any, code: int = 2, stdin: str | None = None) -> str:
        result = invoke(*arguments, stdin=stdin)
        assert (result.exit_code, result.stdout) == (code, ""), result.output
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    return call
