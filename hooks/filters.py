"""Which tokens may be drawn at all: min_p, top_k and top_p, in this order, after temperature."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.errors import RequestError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt, Stage
from chatplan.processor import BatchFunction, Processor, column
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row

_FIRST_LOOK = 256  # tokens that hold the whole nucleus in nearly every step


@dataclass(frozen=True)
class MinP(Processor):
    """Drops tokens whose probability is below ``min_p`` times the highest one."""

    stage: ClassVar[Stage] = Stage.MIN_P
    min_p: float

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        margins = column([item.min_p for item in processors], device).log()

        def drop(scores: torch.Tensor) -> torch.Tensor:
            return scores.masked_fill_(scores < scores.amax(dim=-1, keepdim=True) + margins, -torch.inf)

        return drop


@dataclass(frozen=True)
class TopK(Processor):
    """Keeps the ``top_k`` highest scores, and those equal to the lowest of them."""

    stage: ClassVar[Stage] = Stage.TOP_K
    top_k: int

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        counts = torch.tensor([item.top_k for item in processors], device=device)[:, None]
        most = max(item.top_k for item in processors)

        def drop(scores: torch.Tensor) -> torch.Tensor:
            best = scores.topk(min(most, scores.shape[1]), dim=-1).values
            lowest = best.gather(1, counts.clamp(max=best.shape[1]) - 1)
            return scores.masked_fill_(scores < lowest, -torch.inf)

        return drop


@dataclass(frozen=True)
class TopP(Processor):
    """Keeps the fewest likeliest tokens whose probabilities reach ``top_p``, and those as likely as the last."""

    stage: ClassVar[Stage] = Stage.TOP_P
    top_p: float

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        limits = column([item.top_p for item in processors], device)

        def drop(scores: torch.Tensor) -> torch.Tensor:
            return scores.masked_fill_(scores < nucleus_floor(scores, limits), -torch.inf)

        return drop


def nucleus_floor(scores: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """The lowest score inside each row's nucleus, ``[rows, 1]``.

    A full sort costs more than a decode step of a small model, so the likeliest tokens are tried first.
    """
    total = scores.logsumexp(dim=-1, keepdim=True)
    count = min(_FIRST_LOOK, scores.shape[1])
    while True:
        best = scores.topk(count, dim=-1).values
        cumulative = (best - total).exp().cumsum(dim=-1)
        if count == scores.shape[1] or bool((cumulative[:, -1:] >= limits).all()):
            break
        count = min(count * 16, scores.shape[1])
    inside = (cumulative < limits).sum(dim=-1, keepdim=True)  # tokens before the one that reaches the limit
    return best.gather(1, inside.clamp(max=count - 1))


@hookimpl
def request_fields() -> Collection[str]:
    return ["top_p", "top_k", "min_p"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """Beam search compares and does not draw, so there is nothing to filter."""
    if request.use_beam_search:
        for name in ("top_p", "top_k", "min_p"):
            if name in request.given():
                raise RequestError("has no meaning in beam search, which draws nothing", param=name)


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    """Without effect on a greedy choice, which is the highest score before and after."""
    if request.temperature == 0 or request.use_beam_search:
        return None
    top_p, top_k, min_p = (_value(request, model, name) for name in ("top_p", "top_k", "min_p"))
    work: list[Any] = [MinP(min_p)] if min_p > 0 else []
    work += [TopK(int(top_k))] if top_k > 0 else []
    return work + ([TopP(top_p)] if top_p < 1 else [])


def _value(request: ChatCompletionRequest, model: ModelInfo, name: str) -> float:
    """The request's own value, else the model's, else the published default, which filters nothing."""
    if name in request.model_fields_set:
        return float(getattr(request, name))
    return float(model.sampling_defaults.get(name, getattr(request, name)))
