"""The limit of decoding one answer at a time: every weight is read from memory once for each token."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import torch

__all__ = ["bandwidth", "weight_bytes"]

MEGABYTES = 512


def bandwidth(threads: int, rounds: int) -> float:
    """The fastest read of half a gigabyte on all threads, in bytes a second."""
    torch.set_num_threads(threads)
    numbers = torch.ones(MEGABYTES * 1_000_000 // 4)
    fastest = math.inf
    for _ in range(rounds):
        for read in (torch.max, torch.sum):
            start = time.perf_counter()
            read(numbers)
            fastest = min(fastest, time.perf_counter() - start)
    return numbers.nbytes / fastest


def weight_bytes(model: Path, dtype: str) -> int:
    """The size in bytes of a checkpoint's weights when they are loaded in ``dtype``."""
    itemsize: int = getattr(torch, dtype).itemsize
    return itemsize * sum(count(file) for file in model.glob("*.safetensors"))


def count(file: Path) -> int:
    """How many numbers a safetensors file holds, from its header."""
    with file.open("rb") as stream:
        header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
