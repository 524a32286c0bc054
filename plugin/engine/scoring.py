"""Log-probabilities of tokens that are already there: of a prompt, or of a finished beam."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from chatplan.engine.base import PromptLogprobs
from chatplan.engine.batches import CausalLM, input_device
from chatplan.output import TokenScores
from chatplan.response import PromptLogprob
from chatplan.scores import read_scores

if TYPE_CHECKING:
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan

__all__ = ["prompt_logprobs", "score_tokens"]

_CHUNK = 512  # positions whose logits are in memory together: [512, vocabulary] float32


@torch.no_grad()
def score_tokens(
    model: CausalLM, token_ids: Sequence[int], top: int, inputs: Mapping[str, Any] | None = None
) -> Iterator[TokenScores]:
    """The scores of ``token_ids[1:]``, each given the tokens before it."""
    device = input_device(model)
    ids = torch.tensor([list(token_ids)], device=device)
    more = {
        name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in (inputs or {}).items()
    }
    whole = bool(more) or len(token_ids) <= _CHUNK or getattr(model, "_is_stateful", False)
    past = None
    for start in range(0, len(token_ids) - 1, len(token_ids) if whole else _CHUNK):
        stop = len(token_ids) if whole else min(start + _CHUNK, len(token_ids))
        output = model(input_ids=ids[:, start:stop], past_key_values=past, use_cache=not whole, **more)
        past = None if whole else output.past_key_values
        targets = ids[0, start + 1 : stop + 1]
        logits = output.logits[0, : len(targets)].float()
        yield from read_scores(logits.log_softmax(dim=-1), targets.to(logits.device), top)


def prompt_logprobs(model: CausalLM, info: ModelInfo, plan: GenerationPlan) -> PromptLogprobs:
    """The answer's ``prompt_logprobs``: ``[None, {id: entry, ...}, ...]``, one for each prompt token."""
    top = int(plan.generation_config["prompt_logprobs"])
    ids = plan.prompt.token_ids
    report: PromptLogprobs = [None]
    for token, scores in zip(ids[1:], score_tokens(model, ids, top, plan.prompt.inputs), strict=True):
        entry = {
            str(other): PromptLogprob(logprob=value, rank=rank, decoded_token=info.token_text(other))
            for rank, (other, value) in enumerate(scores.top, start=1)
        }
        entry.setdefault(
            str(token), PromptLogprob(logprob=scores.logprob, rank=scores.rank, decoded_token=info.token_text(token))
        )
        report.append(entry)
    return report
