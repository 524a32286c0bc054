"""Random numbers of one row, independent of every other row, of the device and of the global generators."""

from __future__ import annotations

import numpy as np

__all__ = ["Draws"]

_BLOCK = 64


class Draws:
    """A row's uniform numbers in [0, 1), one for each position of the answer.

    The stream is derived from ``(seed, index)``, so the choices of one request differ and each is reproducible; it is
    addressed by position, so a row that is recomputed draws the same again. ``seed=None`` takes fresh entropy.
    """

    def __init__(self, seed: int | None, index: int = 0) -> None:
        # Words of equal width, since SeedSequence joins them: two's complement keeps every int64 seed distinct.
        key = None if seed is None else (seed & 0xFFFF_FFFF, seed >> 32 & 0xFFFF_FFFF, index)
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        self._numbers: list[float] = []

    def at(self, position: int) -> float:
        """The number for output position ``position``, from 0."""
        while position >= len(self._numbers):
            self._numbers.extend(self._generator.random(_BLOCK).tolist())
        return self._numbers[position]
