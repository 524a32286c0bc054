"""Models that think first: where their reasoning begins and ends, and constraints that hold from there on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import numpy as np

from chatplan.answering import has_opened
from chatplan.guided.backend import Grammar, Matcher
from chatplan.guided.constraint import Constraint

if TYPE_CHECKING:
    import torch

    from chatplan.model import ModelInfo
    from chatplan.plan import Prompt
    from chatplan.request import ChatCompletionRequest

__all__ = ["Thought", "after_reasoning", "with_reasoning"]


_across: WeakKeyDictionary[ModelInfo, dict[bytes, list[tuple[int, bytes]]]] = WeakKeyDictionary()


def _tokens_across(model: ModelInfo, mark: bytes) -> list[tuple[int, bytes]]:
    """The tokens that may hold the end of ``mark`` and something behind it."""
    known = _across.setdefault(model, {})
    if mark not in known:
        texts = ((token, bytes(model.tokens.bytes(token))) for token in range(len(model.tokenizer)))
        ends = [mark[at:] for at in range(1, len(mark))]
        known[mark] = [
            (token, text)
            for token, text in texts
            if mark[-1] in text[:-1] and (mark in text or any(text.startswith(end) for end in ends))
        ]
    return known[mark]


class Thought:
    """Follows one answer, token by token, through its reasoning.

    Attributes:
        state: ``before`` the first token, ``thinking``, or ``answer``.
    """

    def __init__(self, model: ModelInfo, opens: str, closes: str, thinking: bool) -> None:
        self.model = model
        self.closes: bytes = closes.encode()
        self.state: Literal["before", "thinking", "answer"] = "thinking" if thinking else "before"
        opening = model.tokenizer.encode(opens, add_special_tokens=False) if opens else []
        # Plain text of several tokens could not be told from the beginning of an answer.
        clear = len(opening) == 1 or (opening and opening[0] in model.tokens.special)
        self._opening = opening if clear else []
        self._opened = 0
        self._tail = b""

    @property
    def opening(self) -> int | None:
        """The token that begins the reasoning, or goes on with its opening mark; ``None`` when it cannot begin here."""
        possible = self.state == "before" and self._opened < len(self._opening)
        return self._opening[self._opened] if possible else None

    @property
    def must_open(self) -> bool:
        """Whether the opening mark has begun and is not whole."""
        return self.state == "before" and self._opened > 0

    def accept(self, token_id: int) -> str | None:
        """Go on by one token. The text behind the closing mark, if this token brought it."""
        if self.state == "before":
            self._open(token_id)
            return None
        if self.state == "answer":
            return None
        text = self._tail + bytes(self.model.tokens.bytes(token_id))
        start = text.find(self.closes)
        if start < 0:
            self._tail = text[-(len(self.closes) - 1) :]
            return None
        self.state = "answer"
        return text[start + len(self.closes) :].decode("utf-8", errors="replace")

    def overrunning(self) -> list[int]:
        """Tokens that would end the reasoning and begin the answer with what no grammar has seen."""
        found = []
        for token, text in _tokens_across(self.model, self.closes):
            _, mark, rest = (self._tail + text).partition(self.closes)
            if mark and rest.strip():
                found.append(token)
        return found

    def _open(self, token_id: int) -> None:
        if token_id != self.opening:
            self.state = "answer"
            return
        self._opened += 1
        if self._opened == len(self._opening):
            self.state = "thinking"

    def copy(self) -> Thought:
        """One that goes on from here by itself."""
        copied = Thought.__new__(Thought)
        copied.__dict__.update(self.__dict__)
        return copied


def with_reasoning(
    constraint: Constraint, request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo
) -> Constraint:
    """``constraint`` for a model that may think first, unless the prompt has done with reasoning already."""
    marks = None if model.answer_format is None else model.answer_format.reasoning
    if model.answer_format is None or marks is None:
        return constraint
    opened = has_opened(request, prompt, model.answer_format)
    if not opened and (request.continue_final_message or prompt.text.rstrip().endswith(marks.close)):
        return constraint
    return replace(constraint, before=marks.open, after=marks.close, thinking=opened)


def after_reasoning(constraint: Constraint, grammar: Grammar, model: ModelInfo) -> Grammar:
    """``grammar``, held back until the reasoning is over; ``grammar`` itself where there is none."""
    return ThinkingGrammar(constraint, grammar, model) if constraint.after else grammar


class ThinkingGrammar(Grammar):
    """Free text up to the mark that ends the reasoning, then the answer."""

    def __init__(self, constraint: Constraint, grammar: Grammar, model: ModelInfo) -> None:
        self.grammar = grammar
        self.thought: Thought = Thought(model, constraint.before, constraint.after, constraint.thinking)
        self.size: int = grammar.size

    def start(self) -> Matcher:
        return ThinkingMatcher(self.thought.copy(), self.grammar.start())


class ThinkingMatcher(Matcher):
    """First the answer, or the mark that opens the reasoning; then any text up to its end; then the answer."""

    def __init__(self, thought: Thought, inner: Matcher) -> None:
        self.thought: Thought = thought
        self.inner: Matcher = inner

    def fill(self, mask: torch.Tensor) -> None:
        if self.thought.state == "thinking":
            mask.fill_(-1)
            for token in self.thought.model.eos_token_ids:  # nobody ends an answer while thinking about it
                _set_bit(mask, token, False)
            for token in self.thought.overrunning():
                _set_bit(mask, token, False)
            return
        if self.thought.must_open:
            mask.zero_()
        else:
            self.inner.fill(mask)
        if self.thought.opening is not None:
            _set_bit(mask, self.thought.opening, True)

    def accept(self, token_id: int) -> None:
        was_thinking = self.thought.state == "thinking"
        rest = self.thought.accept(token_id)
        if rest is not None and rest.strip():
            for token in self.thought.model.tokenizer.encode(rest.lstrip(), add_special_tokens=False):
                self.inner.accept(token)
        if not was_thinking and self.thought.state == "answer":
            self.inner.accept(token_id)

    def copy(self) -> Matcher:
        return ThinkingMatcher(self.thought.copy(), self.inner.copy())


def _set_bit(mask: torch.Tensor, token: int, value: bool) -> None:
    if token < 32 * len(mask):
        octets = mask.numpy().view(np.uint8)
        bit = 1 << token % 8
        octets[token // 8] = octets[token // 8] | bit if value else octets[token // 8] & (0xFF ^ bit)
