"""``chatplan chat`` in a terminal, as a person types into it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked
import pexpect
import pexpect.fdpexpect
import pytest

pytestmark = [
    pytest.mark.dev_only,
    pytest.mark.skipif(sys.platform == "win32", reason="terminals are those of POSIX"),
]

FLAGS = ("--plugin", "slow_field", "--temperature", "0", "--system", "Be brief.")
# The terminal becomes that of the program, so that Ctrl-C there is a signal.
PROGRAM = """
import fcntl, struct, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 120, 0, 0))
if sys.argv.pop(1) == "input":
    sys.modules["prompt_toolkit"] = None
from chatplan.adapters.cli import main
main()
"""
_PASTES = "\x1b[?2004h"  # what prompt_toolkit begins a prompt with
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Person:
    """Types lines, and sees what comes."""

    def __init__(self, child: Any, program: Any, prompt: str) -> None:
        self.child, self._program, self._prompt = child, program, prompt

    def is_asked(self) -> None:
        """Waits until the chat does."""
        self.child.expect_exact(self._prompt)

    def say(self, line: str) -> None:
        self.is_asked()
        self.child.send(f"{line}\r")

    def presses(self, letter: str) -> None:
        """Ctrl and a letter."""
        self.child.send(chr(ord(letter) & 0x1F))

    def sees(self, text: str) -> str:
        """Waits for ``text``; what came before it."""
        self.child.expect_exact(text)
        return _ESCAPES.sub("", self.child.before or "")

    def leaves(self) -> int:
        """The exit code, once the program has ended."""
        self.child.expect(pexpect.EOF)
        return int(self._program.wait(60))


Start = Callable[..., Any]


@pytest.fixture(params=["prompt_toolkit", "input"])
def start(request: pytest.FixtureRequest, weights: Path, environment: dict[str, str]) -> Start:
    """A chat with the tiny model, with the extra ``cli`` and without."""

    @contextlib.contextmanager
    def chat(*flags: str) -> Iterator[Person]:
        arguments = ["-c", PROGRAM, request.param, "chat", weights, *FLAGS, *flags]
        own = environment | {"PROMPT_TOOLKIT_NO_CPR": "1"}  # nobody tells it where the cursor is
        ours, theirs = os.openpty()
        program = forked.Popen(arguments, env=own, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
        child = pexpect.fdpexpect.fdspawn(ours, encoding="utf-8", timeout=60)
        try:
            child.expect_exact("Ctrl-D leaves")
            yield Person(child, program, _PASTES if request.param == "prompt_toolkit" else "> ")
        finally:
            child.close()
            program.kill()
            program.wait(60)

    return chat


def test_a_conversation(start: Start, tmp_path: Path) -> None:
    with start("--max-tokens", "8") as person:
        person.say('/set guided_choice ["first"]')
        person.say("Hi")
        person.sees("first")
        person.say("/set temperature warm")
        person.sees("error: temperature: should be")
        person.say("/set top_p 7")
        person.sees("error: top_p: should be less than or equal to 1, got 7")
        person.say('/set guided_choice ["second"]')
        person.say("/set logprobs true")
        person.say("And now?")
        person.sees("second")
        person.say("/logprobs")
        person.sees("choice 0")
        person.say(f"/save {tmp_path}/chat.json")
        person.say("/dance")
        person.sees("error: there is no /dance")
        person.is_asked()
        person.presses("D")
        assert person.leaves() == 0
    saved = json.loads((tmp_path / "chat.json").read_text("utf-8"))
    roles = [(message["role"], message["content"]) for message in saved["messages"]]
    assert roles == [("system", "Be brief."), ("user", "Hi"), ("assistant", "first"), ("user", "And now?"),
                     ("assistant", "second")]  # fmt: skip
    assert saved["temperature"] == 0


def test_ctrl_c_stops_an_answer_and_keeps_the_chat(start: Start, tmp_path: Path) -> None:
    with start("--max-tokens", "900", "--slow", "0.05", "--guided-regex", "a{900}") as person:
        person.say("Hi")
        person.sees("aaa")
        person.presses("C")
        person.sees("stopped; what came stays in the chat")
        person.say(f"/save {tmp_path}/chat.json")
        person.say("/set guided_regex b")
        person.say("/retry")
        person.say("/quit")
        assert person.leaves() == 0
    question, answer = json.loads((tmp_path / "chat.json").read_text("utf-8"))["messages"][1:]
    assert question == {"role": "user", "content": "Hi"}
    assert "aaa" in answer["content"]
    assert len(answer["content"]) < 900


def test_ctrl_c_at_the_prompt_leaves_the_second_time(start: Start) -> None:
    with start() as person:
        person.is_asked()
        person.presses("C")
        person.sees("Ctrl-C again leaves")
        person.is_asked()
        person.presses("C")
        person.sees("stopped")
        assert person.leaves() == 130


def test_lines_are_remembered_for_their_owner_alone(start: Start, environment: dict[str, str]) -> None:
    wanted = f"a line to remember {time.monotonic()}"
    with start("--max-tokens", "1") as person:
        person.say(wanted)
        person.say("/quit")
        person.leaves()
    files = list((Path(environment["XDG_STATE_HOME"]) / "chatplan").iterdir())
    assert [file for file in files if file.stat().st_mode & 0o077] == []
    assert any(wanted in file.read_text("utf-8") for file in files)


def test_what_a_model_says_does_not_steer_the_terminal(start: Start) -> None:
    with start("--set", 'guided_choice=["a\\u001b[2Jb"]') as person:
        person.say("Hi")
        assert "\x1b[2J" not in person.sees("\ufffd[2Jb")
        person.say("/quit")
        assert person.leaves() == 0
