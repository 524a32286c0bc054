"""What ends an answer before its length does: stop strings and stop tokens."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from chatplan.errors import RequestError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.output import OutputStage, StageState, Step
from chatplan.plan import OutputOrder, Prompt, StopTokens
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row


@dataclass(frozen=True)
class StopStrings(OutputStage):
    """Ends the row where the first of ``strings`` is complete, whatever the token borders."""

    order: ClassVar[OutputOrder] = OutputOrder.STOPS
    strings: tuple[str, ...]
    include: bool = False
    min_tokens: int = 0

    def open(self, row: Row) -> StageState:
        return _Watching(self, row)


class _Watching(StageState):
    """Holds back the end of the text as long as it could be the beginning of a stop string."""

    def __init__(self, wish: StopStrings, row: Row) -> None:
        self.wish, self.row = wish, row
        self.tail = ""

    def feed(self, step: Step) -> None:
        text = self.tail + step.text
        early = len(self.row.output_ids) < self.wish.min_tokens
        found = None if early or step.finish_reason else first_stop(text, self.wish.strings, len(self.tail))
        if found is None:
            self._hold(step, text)
            return
        stop, start = found
        step.text = text[: start + len(stop)] if self.wish.include else text[:start]
        step.finish_reason, step.stop_reason = "stop", stop
        self.tail = ""

    def close(self) -> Step | None:
        return Step(text=self.tail) if self.tail else None

    def _hold(self, step: Step, text: str) -> None:
        held = held_back(text, self.wish.strings)
        step.text, self.tail = text[: len(text) - held], text[len(text) - held :]


def first_stop(text: str, strings: Iterable[str], seen: int) -> tuple[str, int] | None:
    """The stop string that is complete first in ``text``, and where it starts; only ends after ``seen`` count.

    Reading on character by character would end there, so the answer does not hang on the token borders. Of two that
    end together, the one listed first is taken.
    """
    best: tuple[str, int] | None = None
    for string in strings:
        start = text.find(string, max(0, seen - len(string) + 1))
        if start >= 0 and (best is None or start + len(string) < best[1] + len(best[0])):
            best = string, start
    return best


def held_back(text: str, strings: Iterable[str]) -> int:
    """How many characters at the end of ``text`` could begin a stop string."""
    longest = 0
    for string in strings:
        for length in range(min(len(string) - 1, len(text)), longest, -1):
            if text.endswith(string[:length]):
                longest = length
                break
    return longest


@hookimpl
def request_fields() -> Collection[str]:
    return ["stop", "stop_token_ids", "include_stop_str_in_output"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    if len(request.stop_list) > model.settings.max_stop:
        raise RequestError(
            f"at most {model.settings.max_stop} stop strings, got {len(request.stop_list)}", param="stop"
        )
    for token in request.stop_token_ids:
        if model.vocab_size is not None and token >= model.vocab_size:
            raise RequestError(
                f"token id {token} is not in the vocabulary of {model.vocab_size} tokens", param="stop_token_ids"
            )


@hookimpl
def stopping_criteria(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    return [StopTokens(tuple(request.stop_token_ids))] if request.stop_token_ids else None


@hookimpl
def output_stages(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[OutputStage] | None:
    if not request.stop_list:
        return None
    return [StopStrings(tuple(request.stop_list), request.include_stop_str_in_output, request.min_tokens)]
