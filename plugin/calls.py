"""Tool calls as they are written: names once they are whole, arguments bit by bit."""

from __future__ import annotations

import json
import re
from typing import Any

from chatplan.response import FunctionCallDelta, ToolCallDelta, new_tool_call_id

__all__ = ["CallStream", "call_deltas"]

_STRING = r'"((?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u(?![dD][89a-fA-F])[0-9a-fA-F]{4}))*)"'


def call_deltas(index: int, name: str, arguments: str) -> ToolCallDelta:
    """The first piece of call number ``index``."""
    function = FunctionCallDelta(name=name, arguments=arguments)
    return ToolCallDelta(index=index, id=new_tool_call_id(), type="function", function=function)


class CallStream:
    """Reads JSON of the form ``{"name": …, KEY: {…}}``, or a list of such, piece by piece.

    Arguments are given out as they stand in the answer. Calls written in another order are left to the caller, who
    knows them when the region closes.

    Args:
        key: the key of the arguments.
        first_index: the number of the first call.
        most: read no more calls than this.

    Attributes:
        begun: calls whose name was given out.
        ended: calls whose arguments are complete.
    """

    def __init__(self, key: str, first_index: int, most: int | None = None) -> None:
        # Some models put an id or a type in front.
        others = r'(?:"(?:id|type)"\s*:\s*"[^"]*"\s*,\s*)*'
        name = rf'"name"\s*:\s*{_STRING}'
        self._header = re.compile(rf'[\s\[,;]*\{{\s*{others}{name}\s*,\s*"{re.escape(key)}"\s*:\s*(?=\{{)')
        self._close = re.compile(r"\s*\}")
        self.first_index = first_index
        self.most = most
        self.begun: int = 0
        self.ended: int = 0
        self._text, self._at = "", 0
        self._depth, self._in_string, self._escaped = 0, False, False

    def feed(self, text: str) -> list[ToolCallDelta]:
        """What ``text`` adds."""
        self._text += text
        deltas: list[ToolCallDelta] = []
        while True:
            if self.begun == self.ended and not self._open(deltas):
                return deltas
            written = self._arguments()
            if written:
                function = FunctionCallDelta(arguments=written)
                deltas.append(ToolCallDelta(index=self.first_index + self.begun - 1, function=function))
            if self.begun != self.ended:
                return deltas

    def _open(self, deltas: list[ToolCallDelta]) -> bool:
        if self.ended and (close := self._close.match(self._text, self._at)):
            self._at = close.end()
        header = None if self.begun == self.most else self._header.match(self._text, self._at)
        if header is None:
            return False
        deltas.append(call_deltas(self.first_index + self.begun, json.loads(f'"{header.group(1)}"'), ""))
        self.begun += 1
        self._at = header.end()
        return True

    def _arguments(self) -> str:
        """The characters that belong to the arguments, up to the brace that ends them."""
        start = self._at
        for at in range(start, len(self._text)):
            self._see(self._text[at])
            if self._depth == 0:
                self.ended += 1
                self._at = at + 1
                return self._text[start : self._at]
        self._at = len(self._text)
        return self._text[start:]

    def _see(self, character: str) -> None:
        if self._in_string:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._in_string = False
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1


def arguments_text(arguments: Any) -> str:
    """Arguments as the JSON string that answers carry; a string is taken to be one already."""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
