"""Lines that a person types: history, completion, and what the keys do."""

from __future__ import annotations

import io
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chatplan.adapters.cli import prompts
from chatplan.adapters.cli.prompts import PlainPrompt, history_file, new_prompt


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def candidates(line: str) -> Iterator[str]:
    yield from (word for word in ("temperature", "tools") if word.startswith(line.rpartition(" ")[2]))


def test_lines_are_remembered_in_a_file_of_their_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = history_file("history")
    assert file == tmp_path / "chatplan" / "history"
    assert file.is_file()
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    assert history_file("history") == tmp_path / "home" / ".local" / "state" / "chatplan" / "history"


def test_without_a_place_no_line_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert history_file("history") is None
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert history_file("history") is None


def test_without_a_terminal_lines_come_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("a \n\nb"))
    prompt = new_prompt(candidates)
    assert isinstance(prompt, PlainPrompt)
    assert [prompt.ask(), prompt.ask(), prompt.ask()] == ["a ", "", "b"]
    with pytest.raises(EOFError):
        prompt.ask()
    assert prompt.typed == ""
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "> > > > ")


def test_prompt_toolkit_asks_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    made: Any = object()
    monkeypatch.setattr(prompts, "RichPrompt", {candidates: made}.get)
    assert new_prompt(candidates) is made

    def missing(given: Any) -> Any:
        raise ModuleNotFoundError

    monkeypatch.setattr(prompts, "RichPrompt", missing)
    assert isinstance(new_prompt(candidates), PlainPrompt)


def test_readline_completes_the_last_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    readline = pytest.importorskip("readline")
    monkeypatch.setattr("atexit.register", lambda *given: None)
    monkeypatch.setattr(readline, "get_line_buffer", lambda: "/set te and more")
    monkeypatch.setattr(readline, "get_endidx", lambda: 7)
    before = readline.get_completer(), readline.get_completer_delims()
    try:
        prompts._set_up_readline(candidates)
        complete = readline.get_completer()
        assert readline.get_completer_delims() == " "
    finally:
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])
    assert [complete("te", at) for at in range(2)] == ["temperature", None]
    assert (tmp_path / "chatplan" / "readline_history").exists()


# --- prompt_toolkit ---------------------------------------------------------------------------------------------------

Type = Callable[[str], Any]


@pytest.fixture
def typing() -> Iterator[Type]:
    """Makes a prompt into which a text has been typed."""
    pytest.importorskip("prompt_toolkit")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    with create_pipe_input() as keys, create_app_session(input=keys, output=DummyOutput()):

        def type_in(text: str) -> Any:
            keys.send_text(text)
            return prompts.RichPrompt(candidates)

        yield type_in


def test_enter_ends_a_line_and_alt_enter_begins_another(typing: Type, tmp_path: Path) -> None:
    assert typing("a\x1b\rb\r").ask() == "a\nb"
    assert "+a\n+b\n" in (tmp_path / "chatplan" / "history").read_text("utf-8")


def test_ctrl_c_tells_what_was_typed_and_ctrl_d_leaves(typing: Type) -> None:
    prompt = typing("abc\x03")
    with pytest.raises(KeyboardInterrupt):
        prompt.ask()
    assert prompt.typed == "abc"
    with pytest.raises(EOFError):
        typing("\x04").ask()


def test_completion_replaces_the_last_word(typing: Type) -> None:
    from prompt_toolkit.document import Document

    completer = typing("")._session.completer
    found = [(each.text, each.start_position) for each in completer.get_completions(Document("/set t"), None)]
    assert found == [("temperature", -1), ("tools", -1)]
