"""``chatplan chat``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatplan.adapters.cli.failures import report
from chatplan.adapters.cli.field_flags import given_fields
from chatplan.adapters.cli.loading import DEFAULT_MODEL, Place, load_chat
from chatplan.adapters.cli.options import (
    ApiKey,
    Assignments,
    DeviceMap,
    Disabled,
    Dtype,
    EngineName,
    PluginNames,
    ServedName,
)
from chatplan.errors import ChatplanError, EngineError, RequestError

if TYPE_CHECKING:
    from chatplan.adapters.cli.conversation import Conversation
    from chatplan.adapters.cli.prompts import Prompt
    from chatplan.adapters.cli.slash import Slash
    from chatplan.chat import Chat

__all__ = ["chat"]

Model = Annotated[
    str, typer.Argument(envvar="CHATPLAN_MODEL", help="A name on the hub, a folder, or the URL of a running server.")
]


def chat(
    context: typer.Context,
    model: Model = DEFAULT_MODEL,
    system: Annotated[str, typer.Option(help="The system prompt.")] = "",
    prompt: Annotated[str | None, typer.Option(help="Answer this alone, and leave.")] = None,
    assignments: Assignments = None,
    plugin: PluginNames = None,
    disable: Disabled = None,
    engine: EngineName = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    served_model_name: ServedName = "",
    max_model_len: Annotated[int | None, typer.Option(min=1, help="A context length below the model's own.")] = None,
    tool_call_parser: Annotated[str | None, typer.Option(help="The format of tool calls and reasoning.")] = None,
    api_key: ApiKey = None,
) -> None:
    """Chat in the terminal. Each field of the request is a flag; a prompt on standard input is answered alone.

    Answers stream, and Ctrl-C stops one. /help in the chat lists what it obeys, Ctrl-D leaves.
    """
    fields = given_fields(context, assignments or ())
    if prompt is None and not sys.stdin.isatty():
        prompt = _piped()
    settings = {"max_model_len": max_model_len, "tool_call_parser": tool_call_parser}
    given = {name: value for name, value in settings.items() if value is not None}
    place = Place(model, served_model_name, plugin or (), disable or (), engine, dtype, device_map, given, api_key)
    loaded = load_chat(place)
    try:
        _talk(loaded, system, fields, prompt)
    finally:
        loaded.close()


def _talk(loaded: Chat, system: str, fields: dict[str, Any], prompt: str | None) -> None:
    from chatplan.adapters.cli.conversation import Conversation

    conversation = Conversation(system, fields)
    if prompt is None:
        Terminal(loaded, conversation).run()
        return
    if not answer(loaded, conversation, prompt):
        raise KeyboardInterrupt


def answer(loaded: Chat, conversation: Conversation, text: str) -> bool:
    """Ask, print the answer as it comes, and remember both; false when Ctrl-C stopped it.

    Raises:
        ChatplanError: the request is refused, or the model fails; nothing is remembered.
    """
    from chatplan.adapters.cli.printing import Printer

    question = {"role": "user", "content": text}
    printer = Printer(decorated=sys.stdout.isatty())
    request = conversation.request(question)
    with loaded.stream(request) as stream:
        try:
            whole = printer.stream(stream)
        except ChatplanError:
            printer.finish(whole=False)
            raise
    completion = printer.finish(whole)
    conversation.messages.append(question)
    if completion is not None:
        conversation.answered(completion, whole)
    elif whole:
        raise EngineError("the answer ended before it began")
    return whole


class Terminal:
    """A chat with a person, line by line, until Ctrl-D, /quit, or Ctrl-C twice at an empty line."""

    def __init__(self, loaded: Chat, conversation: Conversation) -> None:
        from chatplan.adapters.cli.prompts import new_prompt
        from chatplan.adapters.cli.slash import Slash

        self._chat, self._conversation = loaded, conversation
        self._slash: Slash = Slash(loaded, conversation, self._ask)
        self._prompt: Prompt = new_prompt(self._slash.candidates)

    def run(self) -> None:
        print(f"{self._chat.model.name} on {self._chat.engine.name}; /help lists commands, Ctrl-D leaves",
              file=sys.stderr)  # fmt: skip
        warned = False
        while True:
            try:
                line = self._prompt.ask()
            except EOFError:
                return
            except KeyboardInterrupt:
                if warned:
                    raise
                warned = not self._prompt.typed
                if warned:
                    print("Ctrl-C again leaves, as Ctrl-D does", file=sys.stderr)
                continue
            warned = False
            if not self._obey(line):
                return

    def _obey(self, line: str) -> bool:
        """Whether to go on. What is refused is told, and the chat goes on."""
        try:
            if line.startswith("/"):
                return self._slash.run(line)
            if line.strip():
                self._ask(line)
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        except ChatplanError as error:
            report(error)
        return True

    def _ask(self, text: str) -> None:
        if not answer(self._chat, self._conversation, text):
            print("stopped; what came stays in the chat, /undo forgets it", file=sys.stderr)


def _piped() -> str:
    text = sys.stdin.read().removesuffix("\n")
    if not text.strip():
        raise RequestError("standard input is empty, and it is no terminal to chat in")
    return text
