"""Log-probabilities of the tokens that were taken, and of the likeliest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatplan.output import TokenScores

if TYPE_CHECKING:
    import torch

__all__ = ["read_scores"]


def read_scores(logprobs: torch.Tensor, tokens: torch.Tensor, top: int) -> list[TokenScores]:
    """For each row of ``logprobs`` (float ``[rows, vocabulary]``): its token's entry, rank and the ``top`` likeliest.

    ``top=-1`` reports the whole vocabulary. Rank is one more than the number of strictly likelier tokens.
    """
    chosen = logprobs.gather(1, tokens[:, None])
    ranks = (logprobs > chosen).sum(dim=1) + 1
    count = logprobs.shape[1] if top < 0 else min(top, logprobs.shape[1])
    values, ids = logprobs.topk(count, dim=1)
    return [
        TokenScores(logprob, rank, tuple(zip(row_ids, row_values, strict=True)))
        for logprob, rank, row_ids, row_values in zip(
            chosen[:, 0].tolist(), ranks.tolist(), ids.tolist(), values.tolist(), strict=True
        )
    ]
