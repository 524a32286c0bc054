"""The suite itself: ids that processes agree on, and no wait without an end."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("*.py"))
# What hangs until somebody cancels it.
FOR_EVER = "asyncio.Event().wait()"
# Without an argument each of these waits for ever; with one it is a bound, or another method of the same name.
WAITS = ("join", "wait", "result", "get", "communicate", "acquire")


@pytest.mark.slow
def test_ids_are_the_same_in_each_process(pytestconfig: pytest.Config, collected_ids: list[str]) -> None:
    """Else processes cannot share the tests. What differs is an address, a time, or the order of a set."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *pytestconfig.args]
    environment = os.environ | {"PYTHONHASHSEED": "1"}  # that of this process is another one, by chance
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200, check=True)
    other = [line for line in done.stdout.splitlines() if "::" in line]
    assert sorted(set(collected_ids) ^ set(other)) == []
    assert len(set(collected_ids)) == len(collected_ids) == len(other)


@pytest.mark.parametrize("file", FILES)
def test_nothing_waits_for_ever(file: str) -> None:
    """A hang names itself within its bound, and says what did not come."""
    assert list(unbounded((ROOT / file).read_text("utf-8"))) == []


def test_a_wait_without_an_end_is_noticed() -> None:
    lines = [
        "thread.join()",
        "', '.join(words)",
        "run(until(event.wait()))",
        "process.wait(5)",
        "wait_for(event.wait(), 5)",
    ]
    assert list(unbounded("\n".join(lines))) == ["1: thread.join()", "3: event.wait()"]


def unbounded(source: str) -> Iterator[str]:
    """Each call that waits without a bound, unless what bounds it is the call around it."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    around = [call for call in calls if "wait_for" in ast.unparse(call.func)]
    bounded = {id(inner) for call in around for inner in ast.walk(call)}
    for call in calls:
        waits = isinstance(call.func, ast.Attribute) and call.func.attr in WAITS
        if waits and ast.unparse(call) != FOR_EVER and not call.args and not call.keywords and id(call) not in bounded:
            yield f"{call.lineno}: {ast.unparse(call)}"
