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

_MOST_K = 2**31 - 1  # no vocabulary has so many, and tensors hold no number of any size
_FIRST_LOOK = 256  # tokens that hold the whole nucleus in nearly every step
_BUCKETS, _DEPTH = 2048, 32.0  # buckets of score below the highest, over this many nats


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

    A full sort costs half a decode step of a small model. The likeliest tokens hold the nucleus in nearly every step;
    the rows where they do not are looked at again.
    """
    probabilities = scores.softmax(dim=-1)
    best, ids = scores.topk(min(_FIRST_LOOK, scores.shape[1]), dim=-1)
    cumulative = probabilities.gather(1, ids).cumsum(dim=-1)
    floor = best.gather(1, _reaching(cumulative, limits))
    wide = (cumulative[:, -1] < limits[:, 0]).nonzero()[:, 0]
    if len(wide):
        floor[wide] = wide_nucleus_floor(scores[wide], probabilities[wide], limits[wide])
    return floor


def wide_nucleus_floor(scores: torch.Tensor, probabilities: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """The same for flat distributions: tokens are counted into buckets of score, and one bucket is sorted."""
    depth = (scores.amax(dim=-1, keepdim=True) - scores).mul_(_BUCKETS / _DEPTH).clamp_(max=_BUCKETS - 1)
    bucket = depth.long()
    mass = torch.zeros(len(scores), _BUCKETS, device=scores.device).scatter_add_(1, bucket, probabilities)
    cumulative = mass.cumsum(dim=-1)
    last = _reaching(cumulative, limits)
    above = (cumulative - mass).gather(1, last)
    inside = bucket == last
    best, ids = scores.masked_fill(~inside, -torch.inf).topk(int(inside.sum(dim=-1).max()), dim=-1)
    held = probabilities.gather(1, ids).masked_fill_(best.isneginf(), 0.0)
    return best.gather(
        1, _reaching(above + held.cumsum(dim=-1), limits).clamp(max=inside.sum(dim=-1, keepdim=True) - 1)
    )


def _reaching(cumulative: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """The place where each row's sum reaches its limit, or the last one; ``[rows, n]`` → ``[rows, 1]``."""
    return (cumulative < limits).sum(dim=-1, keepdim=True).clamp_(max=cumulative.shape[1] - 1)


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
    work += [TopK(min(int(top_k), _MOST_K))] if top_k > 0 else []
    return work + ([TopP(top_p)] if top_p < 1 else [])


def _value(request: ChatCompletionRequest, model: ModelInfo, name: str) -> float:
    """The request's own value, else the model's, else the published default, which filters nothing."""
    if name in request.model_fields_set:
        return float(getattr(request, name))
    return float(model.sampling_defaults.get(name, getattr(request, name)))
