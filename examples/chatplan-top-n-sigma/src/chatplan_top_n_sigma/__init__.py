"""Sampling from the tokens near the highest logit.

**`top_n_sigma`** keeps the tokens whose logit is at least `max - n * sigma`, where `max` is the highest logit and
`sigma` the standard deviation of the logits of all tokens that are still allowed. The rest is noise around the model's
choices and is never drawn.

| value | effect |
|---|---|
| 0 | off (the default) |
| 0.5 to 1 | few choices: as safe as a low temperature, with its variety left to `temperature` |
| 2 and more | nearly everything that the model may mean |

The temperature divides `max` and `sigma` alike, so the same tokens are kept at any temperature: a high one brings
variety and no nonsense. The field runs before `temperature` and goes together with `min_p`, `top_k` and `top_p`.

Definition: Tang et al. 2024, [Not All Logits Are You Need](https://arxiv.org/abs/2411.07641).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field

from chatplan import ChatCompletionRequest, Processor, RequestError, Row, Stage, hookimpl

__all__ = ["TopNSigma"]


@dataclass(frozen=True)
class TopNSigma(Processor):
    """Drops tokens whose logit is more than ``n`` standard deviations below the highest one."""

    stage: ClassVar[Stage] = Stage.TEMPERATURE  # of the same stage, what an installed plugin does comes first
    n: float

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> Any:
        """One operation for all rows; ``scores`` are ``[rows, vocabulary]``, -inf for tokens that are not allowed."""
        n = torch.tensor([item.n for item in processors], device=device)[:, None]

        def drop(scores: torch.Tensor) -> torch.Tensor:
            lowest = scores.amax(dim=-1, keepdim=True) - n * deviation(scores)
            return scores.masked_fill_(scores < lowest, -torch.inf)

        return drop


def deviation(scores: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each row's finite scores, ``[rows, vocabulary]`` → ``[rows, 1]``."""
    allowed = scores.isfinite()
    count = allowed.sum(dim=-1, keepdim=True).clamp(min=1)
    mean = scores.masked_fill(~allowed, 0).sum(dim=-1, keepdim=True) / count
    squares = (scores - mean).masked_fill(~allowed, 0).square()
    return (squares.sum(dim=-1, keepdim=True) / count).sqrt()


@hookimpl
def request_fields() -> Mapping[str, Any]:
    """Type, range and text are what the schema, the playground and the reference show."""
    about = "Sample from the tokens whose logit is within so many standard deviations of the highest one; 0 means all."
    return {"top_n_sigma": (float, Field(0.0, ge=0, le=10, description=about, examples=[1.0]))}


@hookimpl
def check_request(request: ChatCompletionRequest) -> None:
    """Beam search draws nothing, so there is nothing to filter."""
    if request.use_beam_search and request.get("top_n_sigma"):
        raise RequestError("has no meaning in beam search, which draws nothing", param="top_n_sigma")


@hookimpl
def logits_processors(request: ChatCompletionRequest) -> Iterable[Any] | None:
    """Without effect on a greedy choice, which is the highest score before and after."""
    n = request.get("top_n_sigma")
    return [TopNSigma(n)] if n and request.temperature != 0 else None
