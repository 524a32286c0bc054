"""Lines that a person types, with history and completion."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

__all__ = ["Prompt", "new_prompt"]

_SIGN = "> "
Candidates = Callable[[str], Iterable[str]]


class Prompt(Protocol):
    """Asks for a line. Raises EOFError for Ctrl-D; for Ctrl-C KeyboardInterrupt, after which ``typed`` is asked."""

    def ask(self) -> str: ...

    @property
    def typed(self) -> str:
        """What stood on the line that Ctrl-C ended, where that is known."""
        ...


def new_prompt(candidates: Candidates) -> Prompt:
    """prompt_toolkit's where it is installed, as the extra ``cli`` has it; else Python's own."""
    if not sys.stdout.isatty():
        return PlainPrompt(candidates)
    try:
        return RichPrompt(candidates)
    except ModuleNotFoundError:
        return PlainPrompt(candidates)


def history_file(name: str) -> Path | None:
    """Where lines are remembered, readable for nobody else; ``None`` where there is no place."""
    state = os.environ.get("XDG_STATE_HOME")
    folder = (Path(state) if state else Path.home() / ".local" / "state") / "chatplan"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / name
        file.touch(mode=0o600)
        return file if os.access(file, os.W_OK) else None
    except (OSError, RuntimeError):
        return None


class RichPrompt:
    """Lines by prompt_toolkit: several with Alt-Enter, history, completion while typing."""

    def __init__(self, candidates: Candidates) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import Completer, Completion
        from prompt_toolkit.history import FileHistory, InMemoryHistory

        class Slashes(Completer):
            def get_completions(self, document: Any, complete_event: Any) -> Iterator[Completion]:
                line = document.text_before_cursor
                for text in candidates(line):
                    yield Completion(text, start_position=-len(line.rpartition(" ")[2]))

        file = history_file("history")
        self._session: PromptSession[str] = PromptSession(
            history=InMemoryHistory() if file is None else FileHistory(str(file)),
            completer=Slashes(),
            complete_while_typing=False,
            key_bindings=_bindings(),
            prompt_continuation="  ",
        )

    def ask(self) -> str:
        return self._session.prompt(_SIGN)

    @property
    def typed(self) -> str:
        return self._session.default_buffer.text


def _bindings() -> Any:
    from prompt_toolkit.key_binding import KeyBindings

    bindings = KeyBindings()

    @bindings.add("escape", "enter")
    def _(event: Any) -> None:
        event.current_buffer.insert_text("\n")

    return bindings


class PlainPrompt:
    """Lines by ``input``, with readline where Python has it."""

    typed = ""

    def __init__(self, candidates: Candidates) -> None:
        self._terminal = sys.stdin.isatty() and sys.stdout.isatty()
        if self._terminal:
            _set_up_readline(candidates)

    def ask(self) -> str:
        if self._terminal:
            return input(_SIGN)
        print(_SIGN, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.rstrip("\n")


def _set_up_readline(candidates: Candidates) -> None:
    try:
        import readline
    except ModuleNotFoundError:  # Windows
        return

    def complete(text: str, state: int) -> str | None:
        found = list(candidates(readline.get_line_buffer()[: readline.get_endidx()]))
        return found[state] if state < len(found) else None

    file = history_file("readline_history")  # of another form than prompt_toolkit's
    if file is not None:
        with suppress(OSError):  # an empty one
            readline.read_history_file(file)
        readline.set_history_length(1000)
        atexit.register(readline.write_history_file, file)
    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")
