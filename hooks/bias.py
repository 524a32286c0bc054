"""Tokens that are pushed, allowed or forbidden by the request itself."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.errors import RequestError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt, Stage
from chatplan.processor import BatchFunction, Processor
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row


@dataclass(frozen=True)
class LogitBias(Processor):
    """Adds ``values[i]`` to the logit of ``token_ids[i]``."""

    stage: ClassVar[Stage] = Stage.BIAS
    token_ids: tuple[int, ...]
    values: tuple[float, ...]

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        at = torch.tensor([row for row, item in enumerate(processors) for _ in item.token_ids], device=device)
        ids = torch.tensor([token for item in processors for token in item.token_ids], device=device)
        values = torch.tensor([value for item in processors for value in item.values], device=device)
        return lambda scores: scores.index_put_((at, ids), values, accumulate=True)


@dataclass(frozen=True)
class AllowedTokens(Processor):
    """Forbids every token but these."""

    stage: ClassVar[Stage] = Stage.ALLOWED_TOKENS
    token_ids: tuple[int, ...]

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        ids = [torch.tensor(item.token_ids, device=device) for item in processors]

        def keep(scores: torch.Tensor) -> torch.Tensor:
            forbidden = torch.ones_like(scores, dtype=torch.bool)
            for at, allowed in enumerate(ids):
                forbidden[at, allowed] = False
            return scores.masked_fill_(forbidden, -torch.inf)

        return keep


@dataclass(frozen=True)
class BadWords(Processor):
    """Forbids the last token of each sequence when the output ends with the tokens before it."""

    stage: ClassVar[Stage] = Stage.BAD_WORDS
    sequences: tuple[tuple[int, ...], ...]

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        def ban(scores: torch.Tensor) -> torch.Tensor:
            for at, (item, row) in enumerate(zip(processors, rows, strict=True)):
                scores[at, item.forbidden_after(row.output_ids)] = -torch.inf
            return scores

        return ban

    def forbidden_after(self, output_ids: Sequence[int]) -> list[int]:
        """The token ids that would complete a sequence."""
        return [sequence[-1] for sequence in self.sequences if _ends_with(output_ids, sequence[:-1])]


def _ends_with(output_ids: Sequence[int], tokens: tuple[int, ...]) -> bool:
    return not tokens or tuple(output_ids[-len(tokens) :]) == tokens


@hookimpl
def request_fields() -> Collection[str]:
    return ["logit_bias", "allowed_token_ids", "bad_words"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """Token ids must be in the vocabulary."""
    for name in ("logit_bias", "allowed_token_ids"):
        for token in getattr(request, name) or ():
            if model.vocab_size is not None and int(token) >= model.vocab_size:
                raise RequestError(
                    f"token id {token} is not in the vocabulary of {model.vocab_size} tokens", param=name
                )


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    work: list[Any] = []
    if request.logit_bias:
        work.append(LogitBias(tuple(int(token) for token in request.logit_bias), tuple(request.logit_bias.values())))
    if request.allowed_token_ids is not None:
        work.append(AllowedTokens(tuple(request.allowed_token_ids)))
    if request.bad_words:
        work.append(BadWords(tuple(ids for word in request.bad_words for ids in _spellings(word, model))))
    return work


def _spellings(word: str, model: ModelInfo) -> list[tuple[int, ...]]:
    """A word's tokens at the start of a text and after a space, as far as these differ in the first token only."""
    bare = tuple(model.tokenizer.encode(word.lstrip(), add_special_tokens=False))
    spaced = tuple(model.tokenizer.encode(" " + word.lstrip(), add_special_tokens=False))
    if not bare:
        raise RequestError(f"{word!r} has no tokens", param="bad_words")
    differs = spaced[:1] != bare[:1] and len(spaced) == len(bare)
    return [bare, spaced] if differs else [bare]
