"""Making tokens less likely that were there before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt, Stage
from chatplan.processor import BatchFunction, Processor, column
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row


@dataclass(frozen=True)
class Penalties(Processor):
    """The three penalties, in vLLM's order.

    Repetition first: the logit of a token in prompt or output is divided if positive, else multiplied. Then
    ``frequency`` is taken off once for each time the token is in the output, and ``presence`` once if it is there.
    """

    stage: ClassVar[Stage] = Stage.PENALTIES
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        return _Counting(processors, rows, device)


class _Counting:
    """Counts of the tokens of each row, kept up to date by one addition a step."""

    def __init__(self, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> None:
        self.rows, self.device = rows, device
        self.repetition = column([item.repetition for item in processors], device)
        self.frequency = column([item.frequency for item in processors], device)
        self.presence = column([item.presence for item in processors], device)
        self.output = torch.empty(0)
        self.seen = torch.empty(0)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        if self.output.shape != scores.shape:
            self._count(scores)
        penalised = torch.where(scores > 0, scores / self.repetition, scores * self.repetition)
        scores = torch.where(self.seen, penalised, scores)
        return scores.sub_(self.output * self.frequency).sub_((self.output > 0) * self.presence)

    def advance(self, tokens: torch.Tensor) -> None:
        self.output.scatter_add_(1, tokens[:, None], torch.ones_like(tokens, dtype=torch.float32)[:, None])
        self.seen.scatter_(1, tokens[:, None], True)

    def _count(self, scores: torch.Tensor) -> None:
        self.output = torch.zeros_like(scores)
        self.seen = torch.zeros_like(scores, dtype=torch.bool)
        for at, row in enumerate(self.rows):
            ids = torch.tensor(row.output_ids, dtype=torch.long, device=self.device)
            self.output[at].scatter_add_(0, ids, torch.ones_like(ids, dtype=torch.float32))
            self.seen[at, ids] = True
            self.seen[at, torch.tensor(row.prompt_ids, dtype=torch.long, device=self.device)] = True


@hookimpl
def request_fields() -> Collection[str]:
    return ["repetition_penalty", "frequency_penalty", "presence_penalty"]


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    repetition = request.repetition_penalty
    if "repetition_penalty" not in request.model_fields_set:
        repetition = float(model.sampling_defaults.get("repetition_penalty", repetition))
    wish = Penalties(repetition, request.frequency_penalty, request.presence_penalty)
    return None if wish == Penalties() else [wish]
