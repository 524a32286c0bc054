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
# Odd constants of Knuth's and MurmurHash3's multiplications, as int32.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B1 - 2**32, 0x85EBCA6B - 2**32, 0xC2B2AE35 - 2**32


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
    """Draws a token: the highest score after each has got Gumbel noise of its own, which is a draw by probability.

    The drawn token is left as the only finite score. The noise hangs on the row's key and the token alone, so the last
    bits of the logits, which change with the batch, hardly ever change the draw.
    """

    stage: ClassVar[Stage] = Stage.DRAW

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        draws = [row.draws or Draws(None, row.index) for row in rows]

        def draw(scores: torch.Tensor) -> torch.Tensor:
            keys = [stream.at(len(row.output_ids)) for stream, row in zip(draws, rows, strict=True)]
            noise = gumbel(torch.tensor(keys, dtype=torch.int32, device=device), scores.shape[1])
            highest, drawn = noise.add_(scores).max(dim=-1, keepdim=True)
            # Where every token is forbidden the score is none of the finite ones, and the sampler sees that.
            return scores.fill_(-torch.inf).scatter_(1, drawn, highest)

        return draw


def gumbel(keys: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """Standard Gumbel noise, float32 ``[rows, vocabulary]``, from int32 keys ``[rows, 2]``.

    A hash of key and token id, so it is the same on every device and needs no generator for each row.
    """
    bits = torch.arange(vocabulary, dtype=torch.int32, device=keys.device) * _GOLDEN + keys[:, :1]
    bits = mix(mix(bits).bitwise_xor_(keys[:, 1:]))
    # 23 bits and a half: a float32 holds these exactly, and neither 0 nor 1 is among them.
    uniform = (bits >> 9).bitwise_and_(0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
    return uniform.log_().neg_().log_().neg_()


def mix(bits: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's 32-bit finaliser (Appleby, 2011), in place: every input bit changes half the output bits."""
    bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF)).mul_(_MIX_1)
    bits.bitwise_xor_((bits >> 13).bitwise_and_(0x7FFFF)).mul_(_MIX_2)
    return bits.bitwise_xor_((bits >> 16).bitwise_and_(0xFFFF))


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
