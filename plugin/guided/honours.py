"""What a library enforces of JSON Schema, as its backend says."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Honours", "Schema"]

Schema = dict[str, Any]


@dataclass(frozen=True)
class Honours:
    """What a library enforces.

    Attributes:
        library: its name, for errors.
        keywords: those it enforces, by the ``type`` beside them.
        recursion: whether schemas may refer to themselves.
        lengths: whether it counts the characters of strings itself; otherwise an expression does, without escapes.
        refuse: says why it cannot enforce a schema in our spelling, or returns "". The alternatives of an ``anyOf`` are
            those that its references come to; ``nested`` says that one of these is an ``anyOf``.
    """

    library: str
    keywords: Mapping[str, Collection[str]]
    recursion: bool = True
    lengths: bool = True
    refuse: Callable[[Schema], str] = lambda schema: ""
