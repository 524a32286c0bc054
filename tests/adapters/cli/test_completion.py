"""Completion in shells, and the start of the command."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("words", "at", "wanted"),
    [
        ("chatplan ex", "1", {"explain"}),
        ("chatplan keys re", "2", {"revoke"}),
        ("chatplan chat --top", "2", {"--top-p", "--top-k", "--top-logprobs"}),
        ("chatplan schema re", "2", {"request", "response"}),
    ],
)
def test_the_shell_is_told_how_a_word_goes_on(
    words: str, at: str, wanted: set[str], command: Callable[..., Any], environment: dict[str, str]
) -> None:
    asked = {"_CHATPLAN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": at}
    done = command(env=environment | asked)
    assert set(done.stdout.split()) == wanted


def test_the_completion_of_a_shell_is_shown(command: Callable[..., Any], environment: dict[str, str]) -> None:
    # Else typer looks which shell started the tests, which may be none that it knows.
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = command("--show-completion", "bash", env=environment | named)
    assert done.returncode == 0
    assert "COMP_WORDS" in done.stdout


def test_the_command_starts_without_torch_and_transformers() -> None:
    code = (
        "import sys, chatplan.adapters.cli.commands\n"
        "heavy = ('torch', 'transformers', 'fastapi', 'openai', 'prompt_toolkit')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "[]\n"
