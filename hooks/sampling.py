"""Whether and how tokens are drawn: temperature, seed, and how many answers."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.draws import Draws
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt, Stage
from chatplan.processor import BatchFunction, Processor, column
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row

_GREEDY_BELOW = 1e-5
_LOWEST = 0.01  # lower temperatures overflow float16 logits
_PUBLISHED_TEMPERATURE = 0.7


@dataclass(frozen=True)
class Temperature(Processor):
    """Divides logits by the temperature."""

    stage: ClassVar[Stage] = Stage.TEMPERATURE
    temperature: float

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        temperatures = column([item.temperature for item in processors], device)
        return lambda scores: scores.div_(temperatures)


@dataclass(frozen=True)
class Draw(Processor):
    """Draws a token by inverting the cumulative distribution at the row's own uniform number.

    The drawn token is left as the only finite score. The vocabulary is summed in its own order, so the draw does not
    hang on how a sort breaks ties.
    """

    stage: ClassVar[Stage] = Stage.DRAW

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        draws = [row.draws or Draws(None, row.index) for row in rows]

        def draw(scores: torch.Tensor) -> torch.Tensor:
            numbers = [stream.at(len(row.output_ids)) for stream, row in zip(draws, rows, strict=True)]
            drawn = invert(scores.softmax(dim=-1), column(numbers, device))
            return scores.fill_(-torch.inf).scatter_(1, drawn, 0.0)

        return draw


def invert(probabilities: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """The first token whose cumulative probability exceeds the number; ``[rows, V]``, ``[rows, 1]`` → ``[rows, 1]``."""
    cumulative = probabilities.cumsum(dim=-1)
    drawn = torch.searchsorted(cumulative, numbers * cumulative[:, -1:], right=True)
    # A number that rounds up to the total falls off the end; the likeliest token takes it.
    return torch.where(drawn < probabilities.shape[1], drawn, probabilities.argmax(dim=-1, keepdim=True))


@dataclass(frozen=True)
class SumLogprobs(Processor):
    """Adds up the log-probabilities of the drawn tokens, to tell which of several answers is best."""

    stage: ClassVar[Stage] = Stage.LOGPROBS

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        return _Summing(rows)


class _Summing:
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.logprobs = torch.empty(0)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        self.logprobs = scores.log_softmax(dim=-1)
        return scores

    def advance(self, tokens: torch.Tensor) -> None:
        for row, logprob in zip(self.rows, self.logprobs.gather(1, tokens[:, None])[:, 0].tolist(), strict=True):
            if not row.finished:
                row.cumulative_logprob += logprob


@hookimpl
def request_fields() -> Collection[str]:
    return ["temperature", "seed", "n", "best_of"]


@hookimpl
def generation_config(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Mapping[str, Any] | None:
    if request.use_beam_search:
        return None
    seed = None if request.seed == -1 else request.seed
    settings = {"do_sample": False, "num_return_sequences": request.n, "seed": seed}
    return settings if request.best_of is None else {**settings, "num_samples": request.best_of}


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    """Nothing at all for a greedy request: ``generate`` takes the highest score by itself."""
    work: list[Any] = [SumLogprobs()] if (request.best_of or 0) > request.n else []
    temperature = temperature_of(request, model)
    if temperature < _GREEDY_BELOW:
        return work
    return [*work, Temperature(max(temperature, _LOWEST)), *(() if request.use_beam_search else (Draw(),))]


def temperature_of(request: ChatCompletionRequest, model: ModelInfo) -> float:
    """The request's, else the model's own, else the published default."""
    if request.temperature is not None:
        return request.temperature
    return float(model.sampling_defaults.get("temperature", _PUBLISHED_TEMPERATURE))
