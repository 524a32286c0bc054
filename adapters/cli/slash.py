"""What a terminal chat obeys: ``/set``, ``/undo`` and the like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatplan.adapters.cli.conversation import Conversation
from chatplan.adapters.cli.explain import print_explanation
from chatplan.adapters.cli.fields import Field, field_table
from chatplan.adapters.cli.reading import read_json
from chatplan.errors import ChatplanError, RequestError

if TYPE_CHECKING:
    from chatplan.chat import Chat

__all__ = ["Slash"]

_HI = {"role": "user", "content": "Hi"}


class Slash:
    """The commands of a chat, by name. Each gets the rest of its line; its docstring is its help."""

    def __init__(self, chat: Chat, conversation: Conversation, ask: Callable[[str], None]) -> None:
        self.chat: Chat = chat
        self.conversation: Conversation = conversation
        self.ask: Callable[[str], None] = ask
        self.table: Mapping[str, Field] = field_table(chat.plugins)
        self.commands: Mapping[str, Callable[[str], None]] = {
            name.removeprefix("do_"): getattr(self, name) for name in vars(type(self)) if name.startswith("do_")
        }

    def run(self, line: str) -> bool:
        """Obey ``line``; false when it says to leave.

        Raises:
            RequestError: there is no such command, or it cannot be done.
        """
        name, _, rest = line.removeprefix("/").partition(" ")
        if name in ("quit", "exit"):
            return False
        if name not in self.commands:
            known = ", ".join(f"/{each}" for each in (*self.commands, "quit"))
            raise RequestError(f"there is no /{name}; there are {known}")
        self.commands[name](rest.strip())
        return True

    def candidates(self, line: str) -> Iterator[str]:
        """What the last word of ``line`` may go on as."""
        words = line.split(" ")
        if len(words) == 1 and line.startswith("/"):
            yield from (f"/{name}" for name in (*self.commands, "quit") if f"/{name}".startswith(line))
        elif len(words) == 2 and words[0] == "/set":
            yield from (name for name in self.table if name.startswith(words[1]) and name != "messages")
        elif len(words) == 2 and words[0] == "/unset":
            yield from (name for name in self.conversation.fields if name.startswith(words[1]))
        elif len(words) == 3 and words[0] == "/set" and words[1] in self.table:
            field = self.table[words[1]]
            values = field.choices or ((True, False) if field.kinds == {"boolean"} else ())
            texts = (value if isinstance(value, str) else json.dumps(value) for value in values)
            yield from (text for text in texts if text.startswith(words[2]))

    def do_set(self, rest: str) -> None:
        """FIELD VALUE: set a field of the request, as in `/set temperature 0.2`"""
        name, _, text = rest.partition(" ")
        name = name.replace("-", "_")
        if not text.strip():
            raise RequestError("write /set FIELD VALUE, as in /set temperature 0.2")
        if name in ("messages", "stream", "stream_options"):
            raise RequestError("the chat decides this itself", param=name)
        value = self.table.get(name, Field(name, {}, {})).parse(text.strip())
        fields = {**self.conversation.fields, name: value}
        self._check(fields)
        self.conversation.fields = fields

    def do_unset(self, rest: str) -> None:
        """FIELD: leave a field to its default again"""
        if rest.replace("-", "_") not in self.conversation.fields:
            raise RequestError("is not set", param=rest or "/unset FIELD")
        del self.conversation.fields[rest.replace("-", "_")]

    def do_show(self, rest: str) -> None:
        """: show the request that goes with the next message"""
        print(json.dumps(self.conversation.request(), ensure_ascii=False, indent=2))

    def do_system(self, rest: str) -> None:
        """TEXT: set the system prompt; alone, remove it"""
        self.conversation.system = rest

    def do_reset(self, rest: str) -> None:
        """: forget all messages; fields and system prompt stay"""
        self.conversation.reset()

    def do_undo(self, rest: str) -> None:
        """: forget the last question and its answer"""
        self.conversation.undo()

    def do_retry(self, rest: str) -> None:
        """: ask the last question again"""
        before = {**vars(self.conversation), "messages": list(self.conversation.messages)}
        try:
            self.ask(self.conversation.undo())
        except ChatplanError:
            vars(self.conversation).update(before)
            raise

    def do_save(self, rest: str) -> None:
        """FILE: write the chat as a request, which `chatplan run` takes too"""
        text = json.dumps(self.conversation.request(), ensure_ascii=False, indent=2)
        try:
            _file(rest).write_text(text + "\n", "utf-8")
        except OSError as error:
            raise RequestError(f"cannot be written: {error.strerror or error}", param=rest) from None

    def do_load(self, rest: str) -> None:
        """FILE: go on with a chat that was saved, or any request"""
        data, loaded = read_json(_file(rest)), Conversation()
        try:
            loaded.load(data)
            self._check(loaded.fields)
        except RequestError as error:
            raise RequestError(str(error), param=rest) from None
        vars(self.conversation).update(vars(loaded))

    def do_explain(self, rest: str) -> None:
        """: show which plugin turns which field into what"""
        messages = self.conversation.messages
        asks = bool(messages) and messages[-1]["role"] != "assistant"
        print_explanation(self.chat.explain(self.conversation.request(*([] if asks else [_HI]))))

    def do_logprobs(self, rest: str) -> None:
        """: show the tokens of the last answer with their probabilities"""
        if self.conversation.last is None or self.conversation.last.choices[0].logprobs is None:
            raise RequestError("there are none: /set logprobs true, /set top_logprobs 3, and ask, or /retry")
        print(self.conversation.last.show_logprobs())

    def do_help(self, rest: str) -> None:
        """: show this"""
        for name, command in self.commands.items():
            arguments, _, text = (command.__doc__ or "").partition(": ")
            print(f"  {f'/{name} {arguments}':<20}{text}")
        print(f"  {'/quit':<20}leave, as Ctrl-D does")
        print("Ctrl-C stops an answer. Alt-Enter begins another line. Fields: /set and Tab, or `chatplan chat --help`.")

    def _check(self, fields: Mapping[str, Any]) -> None:
        """A value that would be refused later is refused now."""
        self.chat.plan({"messages": [_HI], **fields})


def _file(text: str) -> Path:
    if not text:
        raise RequestError("which file?")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise RequestError(f"cannot be found: {error}", param=text) from None
