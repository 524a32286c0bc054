"""Our one logits processor in transformers' continuous batching: each step's rows, whatever they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from chatplan.engine.criteria import plugin_criteria
from chatplan.engine.sampler import Sampler, failing
from chatplan.engine.tickets import Ticket

__all__ = ["RowProcessor"]


class RowProcessor(ContinuousBatchingLogitsProcessor):
    """Draws for every row of a step, and hands each row its token.

    transformers takes the highest score, so what comes back leaves the drawn token highest.

    Args:
        read: told when a ticket's prompt has been read and its first token is drawn.
        over: told when a ticket's row has ended.
    """

    supported_kwargs: ClassVar[dict[str, type]] = {"ticket": Ticket}  # type: ignore[misc]
    ignored_kwargs: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]

    def __init__(self, read: Callable[[Ticket], None], over: Callable[[Ticket], None]) -> None:
        self.read: Callable[[Ticket], None] = read
        self.over: Callable[[Ticket], None] = over
        self.tickets: list[Ticket] = []
        self.sampler: Sampler | None = None

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        """Take the rows that this step draws for; a new set of rows gets a new sampler."""
        tickets = [request.state.logit_processor_kwargs["ticket"] for request in requests_with_new_token]
        if tickets != self.tickets:
            self.tickets, self.sampler = tickets, None
        return torch.zeros(len(tickets), dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        """Scores, float32 ``[requests, vocabulary]``; those of prompts not yet read stand at the end and are noise."""
        rows = [ticket.row for ticket in self.tickets]
        if not rows:
            return scores
        sampler = self.sampler = self.sampler or Sampler(rows, scores.device)
        drawn = sampler(scores[: len(rows)])
        tokens = drawn.argmax(dim=-1)
        sampler.advance(tokens)
        self._deliver(tokens.tolist(), scores.device)
        if len(rows) == len(scores):
            return drawn
        scores[: len(rows)] = drawn
        return scores

    def _deliver(self, tokens: Sequence[int], device: torch.device) -> None:
        for ticket, token in zip(self.tickets, tokens, strict=True):
            row = ticket.row
            with failing([row]):
                row.push(token)
                plugin_criteria(row, device)
            if ticket.followers:
                self.read(ticket)
            if row.finished:
                self.over(ticket)
