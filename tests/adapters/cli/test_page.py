"""The page of the command line: every command, with examples that run."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from chatplan.adapters.cli import app

PAGE = (Path(__file__).parents[3] / "docs" / "cli.md").read_text("utf-8")
HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SERVERS = re.compile(r"chatplan (serve|playground|bench)|pip install")  # tests of their own run them
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def examples() -> Iterator[str]:
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL):
        yield from (line for line in block.splitlines() if "chatplan " in line)


def test_every_command_is_on_the_page_and_no_other() -> None:
    assert set(re.findall(r"^## ([a-z-]+)$", PAGE, re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"^\| \[`([a-z-]+)`\]\(#", PAGE, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"keys", "serve"}))
def test_help_lists_all_options(name: str, invoke: Callable[..., Any]) -> None:
    text = invoke(name, "--help").stdout
    flags = [flag for param in COMMANDS[name].params for flag in param.opts if flag.startswith("--")]
    assert [flag for flag in flags if flag not in text] == []


@pytest.mark.parametrize("line", [line for line in examples() if not SERVERS.search(line)])
def test_an_example_runs(
    line: str, invoke: Callable[..., Any], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = {"messages": [{"role": "user", "content": "Name a fruit."}], "max_tokens": 4}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "request.json").write_text(json.dumps(request), "utf-8")
    (tmp_path / "requests.jsonl").write_text(json.dumps(request) + "\n", "utf-8")
    invoke("keys", "create", "--file", "keys.json", "--name", "other")
    # What doctor tries is tried by tests of its own.
    monkeypatch.setattr("chatplan.adapters.cli.checks.check_engines", lambda plugins: {"generate": None})
    monkeypatch.setattr("chatplan.adapters.cli.checks.check_backends", lambda plugins: {"guidance": None})
    stdin, _, command = line.rpartition("|") if line.startswith("echo") else ("Hi", "", line)
    words = [word.replace(HUB, str(weights)) for word in shlex.split(command)[1:]]
    if words[0] == "chat":
        words += ["--max-tokens", "4"]
    result = invoke(*words, stdin=stdin)
    assert result.exit_code == 0, result.output
    assert result.output
