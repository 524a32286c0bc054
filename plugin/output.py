"""Output stages: from a drawn token to what the reader gets."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from chatplan.response import FinishReason

if TYPE_CHECKING:
    from chatplan.plan import OutputOrder
    from chatplan.response import TokenLogprob, ToolCallDelta
    from chatplan.row import Row

__all__ = ["OutputStage", "StageState", "Step", "TokenScores"]


@dataclass(frozen=True)
class TokenScores:
    """Log-probabilities at one position: of the token that was taken, its rank from 1, and of the likeliest."""

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass
class Step:
    """What one drawn token adds to an answer. Stages fill it in, in order; the reader gets what is left at the end.

    ``token_ids`` is empty on the steps that only flush text a stage had held back.
    """

    token_ids: list[int] = field(default_factory=list)
    scores: TokenScores | None = None
    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    show_token_ids: bool = False
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None


class StageState:
    """One stage at work on one row."""

    def feed(self, step: Step) -> None:
        """Take in ``step`` and change it: add text, hold text back, or end the row by setting ``finish_reason``."""

    def close(self) -> Step | None:
        """The row is over: what was held back, if anything. Later stages are fed with it.

        Its ``finish_reason``, if any, replaces ``stop``.
        """
        return None


class OutputStage(ABC):
    """One request's wish for its output: a frozen dataclass that makes a :class:`StageState` for each row."""

    order: ClassVar[OutputOrder]

    @abstractmethod
    def open(self, row: Row) -> StageState:
        """The stage for one row, with fresh state."""
