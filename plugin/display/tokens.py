"""A generated token as a reader wants to see it: its probability, what else it might have been, whether it was free."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from chatplan.response import LOWEST_LOGPROB, TokenLogprob

__all__ = ["Alternative", "Token", "visible"]

_ROUNDING = 1e-6  # probabilities that are nothing but this
_MARKS = {"\n": "⏎\n", "\t": "⇥\t", "\r": "␍"}


@dataclass(frozen=True)
class Alternative:
    """A token that might have been, and its log-probability, a natural logarithm."""

    text: str
    logprob: float

    @property
    def probability(self) -> float:
        """Between 0 and 1."""
        return math.exp(self.logprob) if self.logprob > LOWEST_LOGPROB else 0.0


@dataclass(frozen=True)
class Token(Alternative):
    """A token of an answer. ``alternatives`` are those that were listed, the likeliest first, without itself."""

    alternatives: tuple[Alternative, ...] = ()

    @classmethod
    def of(cls, entry: TokenLogprob) -> Token:
        """What an entry of ``logprobs.content`` says."""
        itself = (entry.token, entry.bytes)
        others = [Alternative(other.token, other.logprob) for other in entry.top_logprobs
                  if (other.token, other.bytes) != itself]  # fmt: skip
        return cls(entry.token, entry.logprob, tuple(sorted(others, key=lambda other: -other.logprob)))

    @cached_property
    def listed(self) -> tuple[Alternative, ...]:
        """Itself and its alternatives, the likeliest first."""
        return tuple(sorted((self, *self.alternatives), key=lambda other: -other.logprob))

    @property
    def possible(self) -> tuple[Alternative, ...]:
        """The alternatives that were not ruled out."""
        return tuple(other for other in self.alternatives if other.probability)

    @cached_property
    def entropy(self) -> float | None:
        """Entropy in bits of what is listed, and all the rest as one more; ``None`` when there is no alternative."""
        if not self.alternatives:
            return None
        listed = [item.probability for item in self.listed]
        rest = 1 - sum(listed)
        return abs(sum(share * math.log2(share) for share in (*listed, rest) if share > _ROUNDING))

    @cached_property
    def forced(self) -> bool:
        """Whether a constraint left no other choice: alternatives are listed, and all of them were ruled out."""
        return bool(self.alternatives) and all(other.logprob <= LOWEST_LOGPROB for other in self.alternatives)


def visible(text: str) -> str:
    """``text`` with marks for what cannot be seen: ⏎ for a line's end, ␣ for a space where there is nothing else."""
    if text and not text.strip(" "):
        return "␣" * len(text)
    return "".join(_MARKS.get(character) or _shown(character) for character in text)


def _shown(character: str) -> str:
    # What reorders or hides text, such as a right-to-left override, is written as its escape.
    return character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
