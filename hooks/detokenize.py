"""From tokens to text, never half a character."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tokenizers.decoders import DecodeStream

from chatplan.answering import can_parse, marker_tokens, reading
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.output import OutputStage, StageState, Step
from chatplan.plan import OutputOrder, Prompt
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row

_CONTEXT = 6  # prompt tokens that decide whether the first token begins with a space


@dataclass(frozen=True)
class Detokenize(OutputStage):
    """Text of each token, as soon as its characters are whole."""

    order: ClassVar[OutputOrder] = OutputOrder.DETOKENIZE
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop: bool = False
    keep: tuple[int, ...] = ()

    def open(self, row: Row) -> StageState:
        tokenizer, context = row.model.tokenizer, row.prompt_ids[-_CONTEXT:]
        backend = getattr(tokenizer, "backend_tokenizer", None)
        reader = _Slow(self, tokenizer, context) if backend is None else _Fast(self, backend, context)
        return _Reading(self, reader, row.model.tokens.added)


class _Reading(StageState):
    def __init__(self, wish: Detokenize, reader: _Fast | _Slow, added: Mapping[int, str]) -> None:
        self.wish, self.reader, self.added = wish, reader, added
        self.after_special = False
        self.keep = frozenset(wish.keep if wish.skip_special_tokens else ())

    def feed(self, step: Step) -> None:
        # The token that ends the answer has no text of its own, unless the request keeps it.
        if step.finish_reason == "stop" and not self.wish.include_stop:
            return
        step.text = "".join(self._text(token) for token in step.token_ids)

    def _text(self, token: int) -> str:
        special = token in self.added
        # Marks of reasoning and calls are special tokens in some models; the stage that reads them needs them.
        text = self._mark(token) if token in self.keep else self.reader.step(token)
        if special and self.after_special and not self.wish.spaces_between_special_tokens and text:
            text = text.lstrip(" ")  # decoders that join words would put a space between the two
        self.after_special = special
        return text

    def _mark(self, token: int) -> str:
        """Half a character in front of a mark must not come out behind it."""
        self.reader.forget()
        return self.added[token]


class _Fast:
    """``tokenizers``' own stream, which holds bytes until they are a character."""

    def __init__(self, wish: Detokenize, backend: Any, context: Sequence[int]) -> None:
        self.backend = backend
        self.skip = wish.skip_special_tokens
        self.stream = DecodeStream(skip_special_tokens=self.skip)
        self.waiting = False
        for token in context:
            self.step(token)

    def forget(self) -> None:
        if self.waiting:
            self.stream, self.waiting = DecodeStream(skip_special_tokens=self.skip), False

    def step(self, token: int) -> str:
        text = self._step(token)
        self.waiting = not text
        return text

    def _step(self, token: int) -> str:
        try:
            return self.stream.step(self.backend, token) or ""
        except Exception as error:
            # Bytes that are no UTF-8 can change how earlier ones decode; tokenizers gives up, we go on from here.
            if "invalid prefix" not in str(error).lower():
                raise
            self.stream = DecodeStream(skip_special_tokens=self.skip)
            return self.stream.step(self.backend, token) or ""


class _Slow:
    """Tokenizers in Python: the text of all tokens since the last whole character, less what was given out."""

    def __init__(self, wish: Detokenize, tokenizer: Any, context: Sequence[int]) -> None:
        self.wish, self.tokenizer = wish, tokenizer
        self.ids = list(context)
        self.shown = self._decode()

    def forget(self) -> None:
        if self._decode() != self.shown:
            self.ids, self.shown = [], ""

    def step(self, token: int) -> str:
        self.ids.append(token)
        text = self._decode()
        if text.endswith("\ufffd"):
            return ""
        new, self.shown = text[len(self.shown) :], text
        if len(self.ids) > 8 * _CONTEXT:
            self.ids = self.ids[-_CONTEXT:]
            self.shown = self._decode()
        return new

    def _decode(self) -> str:
        return str(
            self.tokenizer.decode(
                self.ids,
                skip_special_tokens=self.wish.skip_special_tokens,
                spaces_between_special_tokens=self.wish.spaces_between_special_tokens,
                clean_up_tokenization_spaces=False,
            )
        )


@hookimpl
def request_fields() -> Collection[str]:
    return ["skip_special_tokens", "spaces_between_special_tokens"]


@hookimpl
def output_stages(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[OutputStage] | None:
    reader = reading(request, model) if can_parse() else None
    return [
        Detokenize(
            request.skip_special_tokens,
            request.spaces_between_special_tokens,
            request.include_stop_str_in_output,
            () if reader is None else marker_tokens(reader, model.tokens.special),
        )
    ]
