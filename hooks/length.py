"""How long prompt and answer may be."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from chatplan.errors import ContextLengthError, RequestError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt, Stage
from chatplan.processor import BatchFunction, Processor
from chatplan.request import ChatCompletionRequest
from chatplan.row import Row


@dataclass(frozen=True)
class MinTokens(Processor):
    """Bans the tokens that would end the answer until it has ``count`` tokens, unless a grammar leaves nothing else."""

    stage: ClassVar[Stage] = Stage.MIN_TOKENS
    count: int
    token_ids: tuple[int, ...]

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        ids = [torch.tensor(item.token_ids, device=device) for item in processors]
        guided = [any(stage is Stage.GRAMMAR for stage, _ in row.plan.processors) for row in rows]

        def ban(scores: torch.Tensor) -> torch.Tensor:
            for at, (item, row) in enumerate(zip(processors, rows, strict=True)):
                if len(row.output_ids) < item.count:
                    ends = scores[at, ids[at]].clone()
                    scores[at, ids[at]] = -torch.inf
                    if guided[at] and scores[at].amax().isneginf():
                        scores[at, ids[at]] = ends
            return scores

        return ban


@hookimpl
def request_fields() -> Collection[str]:
    return ["max_tokens", "max_completion_tokens", "min_tokens", "ignore_eos", "truncate_prompt_tokens"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """``min_tokens`` must leave the model something to write."""
    allowed = request.allowed_token_ids
    if request.min_tokens and allowed is not None and set(allowed) <= set(_enders(request, model)):
        raise RequestError("bans every token that allowed_token_ids allows", param="min_tokens")


@hookimpl
def generation_config(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Mapping[str, Any] | None:
    """The answer's bound: the request's, else the model's own, else what is left of the context."""
    eos = [] if request.ignore_eos else list(model.eos_token_ids)
    room = _room(request, len(prompt.token_ids), model)
    if request.min_tokens > room:
        raise RequestError(f"there is room for {room} tokens, got {request.min_tokens}", param="min_tokens")
    return {"max_new_tokens": room, "eos_token_id": eos}


@hookimpl
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    ids = _enders(request, model)
    return [MinTokens(request.min_tokens, ids)] if request.min_tokens and ids else None


def _enders(request: ChatCompletionRequest, model: ModelInfo) -> tuple[int, ...]:
    """The tokens that may end this answer."""
    return (*(() if request.ignore_eos else model.eos_token_ids), *request.stop_token_ids)


def _room(request: ChatCompletionRequest, prompt: int, model: ModelInfo) -> int:
    context, asked = model.context_length, request.max_new_tokens_limit
    if context is None:
        bound = asked or model.default_max_new_tokens
        if bound is None:
            raise RequestError("the model states no context length, so the answer needs a bound", param="max_tokens")
        return bound
    if prompt >= context:
        raise ContextLengthError(
            f"the model's context is {context} tokens, and the messages alone have {prompt}; shorten them, or keep "
            "their end with truncate_prompt_tokens",
            param="messages",
        )
    if asked is not None and prompt + asked > context:
        raise ContextLengthError(
            f"the model's context is {context} tokens, and this asks for {prompt + asked}: {prompt} in the messages "
            f"and {asked} in the completion",
            param="max_completion_tokens" if request.max_completion_tokens else "max_tokens",
        )
    return asked or min(context - prompt, model.default_max_new_tokens or context)
