"""A tiny checkpoint on disk, and the command, in this process or as a program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import forked
import pytest
import typer
from transformers import LlamaForCausalLM
from typer.testing import CliRunner, Result

from chatplan.adapters.batch.commands import batch
from chatplan.standin import stand_in

TROUBLE = '''
"""A plugin that makes trouble where the environment, or the field `trouble`, says so."""
import os, signal, time
from chatplan import Stage, hookimpl
from transformers import LogitsProcessor

seen = 0
ended = []

class Fails(LogitsProcessor):
    def __call__(self, input_ids, scores):
        raise RuntimeError("no memory")

@hookimpl
def request_fields():
    return {"trouble": str}

@hookimpl
def check_request(request):
    global seen
    seen += 1
    time.sleep(float(os.environ.get("SLEEP", "0")))
    if os.environ.get("DIE_AT") == str(seen):
        os.kill(os.getpid(), getattr(signal, os.environ.get("DIE_BY", "SIGKILL")))
    if request.get("trouble") == "bug":
        raise KeyError("oops")

@hookimpl
def request_finished(request, usage, error):
    ended.append((request.get("trouble"), usage, error))

@hookimpl
def logits_processors(request):
    return [(Stage.BIAS, Fails())] if request.get("trouble") == "fails" else None

@hookimpl
def stopping_criteria(request):
    def beside(input_ids, scores, **kwargs):
        raise RuntimeError("no row")
    return [beside] if request.get("trouble") == "row" else None
'''


class Files:
    """A folder with an input file, and the command over it."""

    def __init__(self, folder: Path, model: str) -> None:
        self.folder, self.model = folder, model
        self.source, self.output = folder / "in.jsonl", folder / "out.jsonl"
        self.work = folder / "out.jsonl.work"
        (folder / "trouble.py").write_text(TROUBLE, "utf-8")

    def write(self, bodies: Sequence[Mapping[str, Any]]) -> None:
        """The input: a request for each body, called r-0, r-1 …"""
        entries = [
            {"custom_id": f"r-{at}", "method": "POST", "url": "/v1/chat/completions", "body": dict(body)}
            for at, body in enumerate(bodies)
        ]
        self.source.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
        os.utime(self.source, (1_700_000_000, 1_700_000_000))

    def arguments(self, *more: str, output: Path | None = None) -> list[str]:
        return [str(self.source), str(output or self.output), "--model", self.model, "--dtype", "float32", *more]

    def run(self, *more: str, output: Path | None = None) -> Result:
        """The command, in this process."""
        app = typer.Typer()
        app.command()(batch)
        return CliRunner().invoke(app, self.arguments(*more, output=output))

    def start(
        self, *more: str, launcher: Sequence[str] = (), output: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """The command as a program of its own, perhaps under a launcher."""
        command = [*launcher, "-m", "chatplan.batch", *self.arguments(*more, output=output)]
        path = os.pathsep.join(filter(None, [str(self.folder), os.environ.get("PYTHONPATH")]))
        variables = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": path, **environment}
        given: dict[str, Any] = {"env": os.environ | variables, "stderr": subprocess.PIPE, "text": True}
        started: subprocess.Popen[str] = forked.Popen(command, **given)
        return started

    def start_two(self, *more: str) -> list[subprocess.Popen[str]]:
        """Two programs that share the work, with what a launcher says to each."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        both = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        return [self.start(*more, output=None, **both, RANK=rank, LOCAL_RANK=rank) for rank in ("0", "1")]

    def answers(self, output: Path | None = None) -> list[dict[str, Any]]:
        """The lines of the output."""
        return [json.loads(line) for line in (output or self.output).read_text("utf-8").splitlines()]

    def texts(self, output: Path | None = None) -> list[list[str]]:
        """What was answered, by line and choice."""
        bodies = [answer["response"]["body"] for answer in self.answers(output)]
        return [[choice["message"]["content"] for choice in body["choices"]] for body in bodies]


@pytest.fixture(scope="session")
def checkpoint(new_model: Callable[[], LlamaForCausalLM], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model and its tokenizer, on disk."""
    folder = tmp_path_factory.mktemp("checkpoint")
    new_model().save_pretrained(folder)
    tokenizer: Any = stand_in().tokenizer
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def files(checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """A fresh folder, whose plugin `trouble` can be imported."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "trouble", raising=False)
    return Files(tmp_path, checkpoint)


def say(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 6, **fields}


@pytest.fixture(scope="session")
def ask() -> Callable[..., dict[str, Any]]:
    """The body of a request."""
    return say


@pytest.fixture(scope="session")
def bodies() -> list[dict[str, Any]]:
    """Eleven requests of many kinds, one of which is refused; without log-probabilities, whose last digits may differ
    between a program of its own and a long-lived process that did other things before."""
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0},
        {"seed": 7},
        {"n": 2},
        {"top_k": 5},
        {"guided_regex": "[a-c]{3}"},
        {"max_tokens": 12},
        {"request_id": "mine"},
        {"use_beam_search": True, "best_of": 2, "temperature": 0},
        {"max_tokens": 1},
        {"tempurature": 1},  # refused before plugins see it
    ]
    return [say("Hello " * (at % 4 + 1), **fields) for at, fields in enumerate(kinds)]
