"""Grammars at work: one bitmask for all rows, whatever each of them must match."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from chatplan.guided.backend import Grammar, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.plan import Stage, StopTokens
from chatplan.processor import BatchFunction, Processor
from chatplan.row import Row

__all__ = ["GrammarMask", "apply_mask", "matches"]


@dataclass(frozen=True)
class GrammarMask(Processor):
    """Bans the tokens with which the answer could no longer match ``constraint``."""

    stage: ClassVar[Stage] = Stage.GRAMMAR
    constraint: Constraint
    backend: str
    grammar: Grammar = field(repr=False, compare=False)

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        trails = [_trail(item.grammar, row) for item, row in zip(processors, rows, strict=True)]
        bits = rows[0].model.logits_width
        masks = torch.zeros(len(rows), (bits + 31) // 32, dtype=torch.int32, pin_memory=device.type == "cuda")

        def ban(scores: torch.Tensor) -> torch.Tensor:
            for at, (trail, row) in enumerate(zip(trails, rows, strict=True)):
                try:
                    trail.at(row.output_ids).fill(masks[at])
                except Exception as error:  # the grammar's own limits, in the middle of an answer
                    row.fail(error)
                    masks[at].fill_(-1)
            return apply_mask(scores, masks)

        return ban


def _trail(grammar: Grammar, row: Row) -> Trail | BeamTrails:
    """The row's own, which outlives the batch function: it is made anew whenever a neighbour ends."""
    found = row.states.get(GrammarMask)
    if found is None:
        start = grammar.start()
        found = BeamTrails(start, row.model.eos_token_ids) if row.plan.beams > 1 else Trail(start)
        row.states[GrammarMask] = found
    return found


class Trail:
    """One row's way through its grammar."""

    def __init__(self, matcher: Matcher) -> None:
        self.matcher = matcher
        self.length: int = 0

    def at(self, output_ids: Sequence[int]) -> Matcher:
        """The matcher after ``output_ids``, which only ever grow."""
        for token in output_ids[self.length :]:
            self.matcher.accept(token)
        self.length = len(output_ids)
        return self.matcher


class BeamTrails:
    """The ways of all beams of a search. Beams split, end and change places at every step, so prefixes tell them."""

    def __init__(self, matcher: Matcher, eos_token_ids: Sequence[int]) -> None:
        self.dead: DeadBeam = DeadBeam(eos_token_ids)
        self.length: int = 0
        self.matchers: dict[tuple[int, ...], Matcher] = {(): matcher}
        self.parents: dict[tuple[int, ...], Matcher] = self.matchers

    def at(self, output_ids: Sequence[int]) -> Matcher:
        """The matcher after ``output_ids``; all beams are asked for at one length before the next."""
        key = tuple(output_ids)
        if len(key) > self.length:
            self.length, self.parents, self.matchers = len(key), self.matchers, {}
        if key not in self.matchers:
            self.matchers[key] = self._grown(self.parents[key[:-1]], key[-1])
        return self.matchers[key]

    def _grown(self, parent: Matcher, token: int) -> Matcher:
        try:
            matcher = parent.copy()
            matcher.accept(token)
        except ValueError:
            # Where fewer tokens are allowed than beams are wanted, the search fills up with banned ones, at -inf.
            return self.dead
        return matcher


class DeadBeam(Matcher):
    """A beam that cannot match any more; it may only end, so that its scores stay numbers."""

    def __init__(self, eos_token_ids: Sequence[int]) -> None:
        self.ends = eos_token_ids

    def fill(self, mask: torch.Tensor) -> None:
        mask.zero_()
        for token in self.ends:
            if token < 32 * len(mask):
                mask.numpy().view(np.uint8)[token // 8] |= 1 << token % 8

    def accept(self, token_id: int) -> None:
        """Whatever comes: it stays dead."""

    def copy(self) -> Matcher:
        return self


def matches(row: Row, token_ids: Sequence[int]) -> bool:
    """Whether a finished beam keeps to its row's grammar, if it has one."""
    grammars = [item.grammar for _, item in row.plan.processors if isinstance(item, GrammarMask)]
    return all(_keeps_to(grammar.start(), row, token_ids) for grammar in grammars)


def _keeps_to(matcher: Matcher, row: Row, token_ids: Sequence[int]) -> bool:
    """A search fills up with banned tokens, at -inf, so that a beam may also end where the grammar does not."""
    ends = row.plan.generation_config.get("eos_token_id") or ()
    stops = [token for each in row.plan.stopping_criteria if isinstance(each, StopTokens) for token in each.token_ids]
    for token in token_ids:
        if token in ends:
            mask = torch.zeros((row.model.logits_width + 31) // 32, dtype=torch.int32)
            matcher.fill(mask)
            return bool(mask[token // 32] >> token % 32 & 1)
        try:
            matcher.accept(token)
        except ValueError:
            return False
        if token in stops:
            break
    return True


def apply_mask(scores: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """``scores``, float32 ``[rows, vocabulary]``, with -inf where ``masks``, int32 ``[rows, words]``, has no bit."""
    width = scores.shape[1]
    if scores.device.type == "cpu":
        # numpy works on the tensor's own memory, three times as fast as torch's shifts.
        bits = np.unpackbits(masks.numpy().view(np.uint8), axis=1, count=width, bitorder="little")
        np.copyto(scores.numpy(), -np.inf, where=bits == 0)
        return scores
    words = masks.to(scores.device, non_blocking=True)
    shifts = torch.arange(32, dtype=torch.int32, device=scores.device)
    allowed = ((words[:, :, None] >> shifts) & 1).flatten(1)[:, :width]
    return scores.masked_fill_(allowed == 0, -torch.inf)
