"""Answers on standard output: as they come, with colours on a terminal and without any elsewhere."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from chatplan.folding import fold

if TYPE_CHECKING:
    from chatplan.response import ChatCompletion, ChatCompletionChunk, ChatMessage

__all__ = ["Printer", "print_whole"]

# A terminal would obey them.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Printer:
    """Prints one answer. Of several choices the first one is printed as it comes, and the others when all is there.

    Args:
        decorated: for a terminal: reasoning is shown dim, control characters are shown and not sent, and each choice
            has its number. Otherwise only answers are printed, as they are.
    """

    def __init__(self, decorated: bool) -> None:
        self._decorated = decorated
        self._console = Console(highlight=False, soft_wrap=True) if decorated else None
        self._chunks: list[ChatCompletionChunk] = []
        self._style: str | None = None
        self._ends = "\n"

    def stream(self, chunks: Iterable[ChatCompletionChunk]) -> bool:
        """Print until the answer ends, or Ctrl-C comes; returns whether all of it came."""
        try:
            for chunk in chunks:
                self._chunks.append(chunk)
                for choice in chunk.choices:
                    if choice.index == 0:
                        self._write(choice.delta.reasoning_content or "", "dim")
                        self._write(choice.delta.content or "", None)
        except KeyboardInterrupt:
            return False
        return True

    def finish(self, whole: bool = True) -> ChatCompletion | None:
        """Print what is known at the end; returns what came, ``None`` for nothing."""
        if not any(chunk.choices for chunk in self._chunks):
            self._end_line()
            return None
        completion = fold(self._chunks)
        if whole:
            for call in _calls(completion.choices[0].message):
                self._line(call, "cyan")
        self._end_line()
        for choice in completion.choices[1:]:
            self._others(choice.index, choice.message)
        return completion

    def _others(self, index: int, message: ChatMessage) -> None:
        if self._decorated:
            self._line(f"[{index}]", "dim")
            if message.reasoning_content:
                self._line(message.reasoning_content, "dim")
        for text in _texts(message):
            self._line(text, None)

    def _line(self, text: str, style: str | None) -> None:
        self._end_line()
        self._write(text, style)
        self._end_line()

    def _end_line(self) -> None:
        if not self._ends.endswith("\n"):
            self._write("\n", None)

    def _write(self, text: str, style: str | None) -> None:
        if not text or (style == "dim" and not self._decorated):
            return
        if style != self._style and text != "\n":
            self._style, before = style, self._style
            if before == "dim":
                self._end_line()
        if self._console is None:
            sys.stdout.write(text)
            sys.stdout.flush()
        else:
            self._console.print(_CONTROLS.sub("\ufffd", text), style=style, end="", markup=False, emoji=False)
        self._ends = text


def print_whole(completion: ChatCompletion) -> None:
    """The text of each choice, and its tool calls as JSON, a line each."""
    for choice in completion.choices:
        for text in _texts(choice.message):
            print(_CONTROLS.sub("\ufffd", text) if sys.stdout.isatty() else text)


def _texts(message: ChatMessage) -> Iterator[str]:
    calls = list(_calls(message))
    if message.content or not calls:
        yield message.content or ""
    yield from calls


def _calls(message: ChatMessage) -> Iterator[str]:
    for call in message.tool_calls:
        yield json.dumps(
            {"name": call.function.name, "arguments": _arguments(call.function.arguments)}, ensure_ascii=False
        )


def _arguments(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
