"""How likely the tokens were: of the answer and of the prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.errors import RequestError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.output import OutputStage, StageState, Step, TokenScores
from chatplan.plan import OutputOrder, Prompt, Stage
from chatplan.processor import BatchFunction, Processor
from chatplan.request import ChatCompletionRequest
from chatplan.response import TokenLogprob, TopLogprob
from chatplan.row import Row
from chatplan.scores import read_scores
from chatplan.tokens import TokenReader


@dataclass(frozen=True)
class ReadLogprobs(Processor):
    """Reads the log-probabilities at this point of the sampler, for the ``top`` likeliest tokens; changes nothing."""

    stage: ClassVar[Stage] = Stage.LOGPROBS
    top: int

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        return _Reading(processors, rows)


@dataclass(frozen=True)
class ReadProcessedLogprobs(ReadLogprobs):
    """The same after all filters: of the distribution that is drawn from."""

    stage: ClassVar[Stage] = Stage.PROCESSED_LOGPROBS


class _Reading:
    def __init__(self, processors: Sequence[ReadLogprobs], rows: Sequence[Row]) -> None:
        self.rows = rows
        self.tops = [item.top for item in processors]
        self.logprobs = torch.empty(0)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        self.logprobs = scores.log_softmax(dim=-1)
        return scores

    def advance(self, tokens: torch.Tensor) -> None:
        most = -1 if -1 in self.tops else max(self.tops)
        for row, top, scores in zip(self.rows, self.tops, read_scores(self.logprobs, tokens, most), strict=True):
            row.scores = scores if top < 0 else TokenScores(scores.logprob, scores.rank, scores.top[:top])


@dataclass(frozen=True)
class ReportLogprobs(OutputStage):
    """Writes what was read into the answer: the drawn token first, then the likeliest ones."""

    order: ClassVar[OutputOrder] = OutputOrder.LOGPROBS
    top: int
    as_ids: bool = False

    def open(self, row: Row) -> StageState:
        return _Reporting(self, row.model.tokens)


class _Reporting(StageState):
    def __init__(self, wish: ReportLogprobs, tokens: TokenReader) -> None:
        self.wish, self.tokens = wish, tokens

    def feed(self, step: Step) -> None:
        if step.scores is None or not step.token_ids:
            return
        token, scores = step.token_ids[0], step.scores
        # The drawn token is the first alternative; one outside the likeliest takes a place of theirs.
        others = [(token, scores.logprob), *((i, value) for i, value in scores.top if i != token)]
        shown = others if self.wish.top < 0 else others[: self.wish.top]
        alternatives = [TopLogprob(**self._entry(i, value)) for i, value in shown]
        step.logprobs.append(TokenLogprob(**self._entry(token, scores.logprob), top_logprobs=alternatives))

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = f"token_id:{token}" if self.wish.as_ids else self.tokens.text(token)
        return {"token": text, "logprob": logprob, "bytes": self.tokens.bytes(token)}


@hookimpl
def request_fields() -> Collection[str]:
    return ["logprobs", "top_logprobs", "prompt_logprobs", "return_tokens_as_token_ids"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    if request.use_beam_search and request.logprobs and model.settings.logprobs_mode == "processed":
        raise RequestError("beam search reports raw log-probabilities, and the setting is processed", param="logprobs")
    limit = model.settings.max_logprobs
    for name in ("top_logprobs", "prompt_logprobs"):
        asked = getattr(request, name)
        if limit >= 0 and asked is not None and not -1 < asked <= limit:
            raise RequestError(f"at most {limit} (the setting max_logprobs), got {asked}", param=name)


@hookimpl
def generation_config(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Mapping[str, Any] | None:
    """With ``echo``, alternatives are reported for the prompt as for the answer, unless the request says how many."""
    wanted = request.prompt_logprobs
    if wanted is None and request.echo and request.logprobs and not request.stream:
        wanted = _top(request)
    settings = {"logprobs": _top(request), "prompt_logprobs": wanted}
    return {name: value for name, value in settings.items() if value is not None}


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    top = _top(request)
    if top is None:
        return None
    return [ReadProcessedLogprobs(top) if model.settings.logprobs_mode == "processed" else ReadLogprobs(top)]


@hookimpl
def output_stages(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[OutputStage] | None:
    top = _top(request)
    return None if top is None else [ReportLogprobs(top, request.return_tokens_as_token_ids)]


def _top(request: ChatCompletionRequest) -> int | None:
    return (request.top_logprobs or 0) if request.logprobs else None
