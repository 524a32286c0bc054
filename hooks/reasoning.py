"""How much a model thinks before it answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.answering import has_opened
from chatplan.errors import RequestError
from chatplan.guided.thinking import Thought
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt, Stage
from chatplan.processor import BatchFunction, Processor
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row
from chatplan.templates import template_of, template_variables

# Variables by which templates that know no degrees switch reasoning off.
_SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True)
class ThinkingBudget(Processor):
    """After ``tokens`` tokens of reasoning, nothing but the text that ends it may follow."""

    stage: ClassVar[Stage] = Stage.GRAMMAR
    tokens: int
    opens: str
    closes: str
    thinking: bool

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        work = [item.watch(row) for item, row in zip(processors, rows, strict=True)]

        def force(scores: torch.Tensor) -> torch.Tensor:
            for at, watch in enumerate(work):
                token = watch.forced()
                if token is not None:
                    kept = scores[at, token].clone()
                    scores[at] = -torch.inf
                    scores[at, token] = kept
            return scores

        return force

    def watch(self, row: Row) -> _Watch:
        """The row's own count, which outlives the batch function. Beams are counted anew."""
        if row.plan.beams > 1:
            return _Watch(self, row)
        found = row.states.get(ThinkingBudget)
        if found is None:
            found = row.states[ThinkingBudget] = _Watch(self, row)
        return found


class _Watch:
    """How much one row has thought."""

    def __init__(self, budget: ThinkingBudget, row: Row) -> None:
        self.budget: ThinkingBudget = budget
        self.row: Row = row
        self.thought: Thought = Thought(row.model, budget.opens, budget.closes, budget.thinking)
        self.end: list[int] = row.model.tokenizer.encode(budget.closes, add_special_tokens=False)
        self.read: int = 0
        self.used: int = 0

    def forced(self) -> int | None:
        """The next token of the closing text, once the budget is used up."""
        for token in self.row.output_ids[self.read :]:
            self.used += self.thought.state == "thinking"
            self.thought.accept(token)
        self.read = len(self.row.output_ids)
        if self.thought.state != "thinking" or self.used < self.budget.tokens:
            return None
        # What the budget is exceeded by was forced: beams count anew at each step, and come to the same.
        return int(self.end[(self.used - self.budget.tokens) % len(self.end)])


@hookimpl
def request_fields() -> Collection[str]:
    return ["reasoning_effort", "thinking_token_budget"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """Both need a model that knows them."""
    if request.reasoning_effort is not None and not _effort(request, model):
        reason = f"this chat template does not read it, got {request.reasoning_effort!r}"
        raise RequestError(reason, param="reasoning_effort")
    knows = model.answer_format is not None and model.answer_format.reasoning is not None
    if request.thinking_token_budget is not None and not knows:
        raise RequestError("this model does not mark its reasoning", param="thinking_token_budget")


@hookimpl
def template_args(request: ChatCompletionRequest, model: ModelInfo) -> Mapping[str, Any] | None:
    if request.reasoning_effort is None:
        return None
    overridden = request.chat_template_kwargs or {}
    return {key: value for key, value in _effort(request, model).items() if key not in overridden}


def _effort(request: ChatCompletionRequest, model: ModelInfo) -> dict[str, Any]:
    """The degree for templates that know degrees; ``none`` switches reasoning off in those that only know that."""
    variables = template_variables(template_of(model, request.chat_template))
    if "reasoning_effort" in variables:
        return {"reasoning_effort": request.reasoning_effort}
    if request.reasoning_effort != "none":
        return {}
    return {name: False for name in _SWITCHES if name in variables}


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    reader = model.answer_format
    if request.thinking_token_budget is None or reader is None or reader.reasoning is None:
        return None
    marks, opened = reader.reasoning, has_opened(request, prompt, reader)
    return [ThinkingBudget(request.thinking_token_budget, marks.open, marks.close, opened)]
