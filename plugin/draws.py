"""Random numbers of one row, independent of every other row, of the device and of the global generators."""

from __future__ import annotations

import numpy as np

__all__ = ["Draws"]

_BLOCK = 64


class Draws:
    """A row's random keys, one for each position of the answer.

    The stream is derived from ``(seed, index)``, so the choices of one request differ and each is reproducible; it is
    addressed by position, so a row that is recomputed draws the same again. ``seed=None`` takes fresh entropy.
    """

    def __init__(self, seed: int | None, index: int = 0) -> None:
        # Words of equal width, since SeedSequence joins them: two's complement keeps every int64 seed distinct.
        key = None if seed is None else (seed & 0xFFFF_FFFF, seed >> 32 & 0xFFFF_FFFF, index)
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        self._keys: list[tuple[int, int]] = []

    def at(self, position: int) -> tuple[int, int]:
        """The key for output position ``position``, from 0: two int32 numbers."""
        while position >= len(self._keys):
            block = self._generator.integers(-(2**31), 2**31, size=(_BLOCK, 2), dtype=np.int32)
            self._keys.extend((int(first), int(second)) for first, second in block)
        return self._keys[position]
