"""Cuts answers into reasoning, content and tool calls, by transformers' response parser."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from chatplan.answering import NEEDS_PARSER, answer_prefix, can_parse, offers_tools, reading
from chatplan.calls import CallStream, arguments_text, call_deltas
from chatplan.errors import RequestError
from chatplan.families import AnswerFormat, read_pythonic
from chatplan.guided.wishes import wished
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.output import OutputStage, StageState, Step
from chatplan.plan import OutputOrder, Prompt
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row

# What the parser raises on a region that is not what it should be: bad JSON, missing keys, too deeply nested.
_MALFORMED = (ValueError, KeyError, TypeError, RecursionError)


@dataclass(frozen=True)
class ParseAnswer(OutputStage):
    """Tells reasoning and calls from content, in the format ``format``.

    ``calls_end`` says whether an answer that calls tools ends with ``tool_calls``, which one that was made to call a
    certain tool does not; ``parallel`` whether it may call more than one; ``once`` that there is no second reasoning:
    in an answer that must match something, marks are text.
    """

    order: ClassVar[OutputOrder] = OutputOrder.REASONING
    format: str
    include_reasoning: bool
    calls_end: bool
    parallel: bool
    once: bool
    reader: AnswerFormat = field(repr=False, compare=False)
    prefix: str = field(repr=False, compare=False)
    tools: tuple[dict[str, Any], ...] = field(repr=False, compare=False)

    def open(self, row: Row) -> StageState:
        return _Parsing(self)


class _Parsing(StageState):
    """Feeds the parser and turns its events into what the reader gets.

    The parser raises where a region closes that it cannot read, and its events are lost with it. It is fed by
    characters, so that what is lost does not hang on the token borders; ``unread`` is the text that reached nobody yet,
    so that a malformed call comes out as text.
    """

    def __init__(self, wish: ParseAnswer) -> None:
        self.wish = wish
        self.unread = ""
        self.calls = 0
        self.over = self.plain = False
        self._begin(wish.prefix)

    def feed(self, step: Step) -> None:
        text, step.text = step.text, ""
        self._read(text, step)
        self._stream_call(step)

    def close(self) -> Step | None:
        step = Step()
        for _ in range(3):  # a malformed call, and one that begins inside of it
            try:
                self._take([] if self.over else self.parser.finalize()[1], step)
                break
            except _MALFORMED:
                self._read(self._give_up(step), step)
        if self.calls and self.wish.calls_end:
            step.finish_reason = "tool_calls"
        return step

    def _begin(self, prefix: str) -> None:
        from transformers.utils.chat_parsing import ResponseParser
        from transformers.utils.chat_parsing.response_templates import load_response_template

        template = load_response_template(dict(self.wish.reader.response_template))
        marks = template.fields.get("tool_calls")
        self.opening = None if marks is None else marks.open_re
        self.closing = None if marks is None else marks.close_re
        self.parser = ResponseParser(template, prefix, tools=list(self.wish.tools))
        self._forget_call()

    def _forget_call(self) -> None:
        self.body = self.unstreamed = ""
        self.stream: CallStream | None = None

    def _read(self, text: str, step: Step) -> None:
        for at, character in enumerate(text):
            if self.plain:
                step.text += text[at:]
            if self.over:
                return
            self.unread += character
            try:
                self._take(self.parser.feed(character), step)
            except _MALFORMED:
                rest = self._give_up(step)
                self._read(rest + text[at + 1 :], step)
                return

    def _take(self, events: Iterable[Mapping[str, Any]], step: Step) -> None:
        for event in events:
            is_call = event["field"] == "tool_calls"
            if self.over:
                return
            if event["type"] == "region_open" and is_call:
                self._call_open()
            elif event["type"] == "region_chunk" and is_call:
                self.body += event["text"]
                self.unstreamed += event["text"]
            elif event["type"] == "region_chunk":
                self._text_chunk(event["field"], event["text"], step)
                if self.wish.once and event["field"] == "content":
                    self._rest_is_text(self.unread, step)
            elif event["type"] == "region_close" and self.wish.once:
                self._reasoning_is_over(step)
            elif event["type"] == "region_close" and is_call:
                self._call_close(event["value"], step)

    def _text_chunk(self, region: str, text: str, step: Step) -> None:
        self.unread = self.unread.partition(text)[2]
        if region == "content":
            step.text += text
        elif self.wish.include_reasoning:
            step.reasoning += text

    def _reasoning_is_over(self, step: Step) -> None:
        marks = self.wish.reader.reasoning
        _, closed, rest = self.unread.partition(marks.close) if marks else ("", "", "")
        if closed:
            self._rest_is_text(rest.lstrip(), step)

    def _rest_is_text(self, held_back: str, step: Step) -> None:
        step.text += held_back
        self.plain = self.over = True

    def _call_open(self) -> None:
        """What stands before the mark that opens the call is marks of other regions."""
        opening = self.opening.search(self.unread) if self.opening else None
        self.unread = self.unread[opening.start() :] if opening else self.unread

    def _stream_call(self, step: Step) -> None:
        key = self.wish.reader.stream_key
        if key is not None and self.unstreamed:
            self.stream = self.stream or CallStream(key, self.calls, None if self.wish.parallel else 1)
            step.tool_calls += self.stream.feed(self.unstreamed)
        self.unstreamed = ""

    def _call_close(self, value: Any, step: Step) -> None:
        calls = read_pythonic(self.body) if self.wish.reader.pythonic else _functions(value)
        calls = calls if self.wish.parallel else calls[:1]
        deltas = [call_deltas(self.calls + at, *_call(function)) for at, function in enumerate(calls)]
        self._stream_call(step)
        begun = 0 if self.stream is None else self.stream.begun
        step.tool_calls += deltas[begun:]
        self._called(max(begun, len(calls)), step)
        self.unread = self.unread.partition(self.body)[2] if self.body else self.unread
        self._forget_call()

    def _called(self, count: int, step: Step) -> None:
        self.calls += count
        if count and not self.wish.parallel:
            self.over = True
            step.finish_reason = step.finish_reason or "stop"

    def _give_up(self, step: Step) -> str:
        """A malformed call is text; what is to be read again: from a mark inside of it on, or behind it.

        A call whose arguments were given out already stays as it is, cut short.
        """
        self._stream_call(step)
        begun = 0 if self.stream is None else self.stream.begun
        self._called(begun, step)
        end = self._end_of_malformed(begun > 0)
        if not begun:
            step.text += self.unread[:end]
        rest, self.unread = self.unread[end:], ""
        self._begin("")
        # The middle of an answer is neither its beginning nor reasoning.
        marks = self.wish.reader.reasoning
        self.parser.feed("." if marks is None else f"{marks.close}.")
        return rest

    def _end_of_malformed(self, begun: bool) -> int:
        text = self.unread
        openings = [] if self.opening is None else list(self.opening.finditer(text))
        if not begun and openings and openings[-1].start() > 0:
            return int(openings[-1].start())
        start = openings[0].end() if openings else 0
        closing = None if self.closing is None else self.closing.search(text, start)
        return len(text) if closing is None else max(int(closing.end()), 1)


def _functions(value: Any) -> list[Mapping[str, Any]]:
    """The functions of a parsed region; a region may hold one call or a list."""
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, Mapping) for item in items):
        raise ValueError("a call is not an object")
    return [item["function"] for item in items]


def _call(function: Mapping[str, Any]) -> tuple[str, str]:
    arguments = function.get("arguments")
    return function["name"], arguments_text({} if arguments is None else arguments)


@hookimpl
def request_fields() -> Collection[str]:
    return ["include_reasoning"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    if not request.include_reasoning and reading(request, model) is not None and not can_parse():
        raise RequestError(NEEDS_PARSER, param="include_reasoning")


@hookimpl
def output_stages(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[OutputStage] | None:
    reader = reading(request, model)
    if reader is None or not can_parse():
        return None
    tools = [tool.model_dump(exclude_none=True) for tool in request.tools or ()] if offers_tools(request) else []
    return [
        ParseAnswer(
            reader.name,
            request.include_reasoning,
            # OpenAI's rule: what was made to call a named tool ends like any answer.
            isinstance(request.tool_choice, str),
            request.parallel_tool_calls,
            not offers_tools(request) and wished(request) is not None,
            reader,
            answer_prefix(request, prompt, reader),
            tuple(tools),
        )
    ]
