"""The interface of the libraries that enforce constraints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from chatplan.guided.constraint import Constraint

__all__ = ["CannotEnforce", "Grammar", "GrammarBackend", "Matcher"]


class CannotEnforce(Exception):
    """A backend cannot enforce all of a constraint.

    Attributes:
        reason: one line.
        place: a JSON pointer into the schema, or "".
        wrong: whether the constraint itself is at fault, so that no other backend need be asked.
        passing: whether it may work another time, when the machine has more time or memory.
    """

    def __init__(self, reason: str, place: str = "", wrong: bool = False, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing
        self.reason: str = " ".join(reason.split())
        self.place = place
        self.wrong = wrong

    def __str__(self) -> str:
        return f"at {self.place}: {self.reason}" if self.place else self.reason


class Matcher(ABC):
    """How far one answer has come through a grammar."""

    @abstractmethod
    def fill(self, mask: torch.Tensor) -> None:
        """Write which tokens may come next, one bit each, least significant first: int32 ``[ceil(vocabulary / 32)]``.

        The end-of-sequence tokens are allowed just when the answer may end here.
        """

    @abstractmethod
    def accept(self, token_id: int) -> None:
        """Go on by one token that the mask allows, but no end of sequence. Raises ``ValueError`` for others."""

    @abstractmethod
    def copy(self) -> Matcher:
        """One that goes on from here by itself."""


class Grammar(ABC):
    """A constraint compiled for one tokenizer; threads may share it. ``size`` is its memory in bytes, an estimate."""

    size: int = 0

    @abstractmethod
    def start(self) -> Matcher:
        """A matcher at the beginning of an answer."""


class GrammarBackend(ABC):
    """A library that compiles constraints for one model's tokenizer.

    Made once for a model, by the hook ``grammar_backend``; threads may share it.
    """

    name: str

    @property
    def starting(self) -> bool:
        """Whether it is still loading; the time that takes is not counted as compiling."""
        return False

    @abstractmethod
    def compile(self, constraint: Constraint) -> Grammar:
        """The grammar of ``constraint``, which enforces all of it. Blocks; the caller sees to time and threads.

        ``before``, ``after`` and ``thinking`` are not the backend's concern.

        Raises:
            CannotEnforce: a part of it is wrong, or is something that the library would leave out.
        """
