"""What is measured of one request, and the figures of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["Sample", "figures"]


@dataclass
class Sample:
    """One streamed answer; times in seconds on the clock of ``time.perf_counter``.

    Attributes:
        events: what arrived and when, until :meth:`read`.
        times: when each event with something for the reader came.
        tokens, prompt_tokens: as the usage of the answer counts them.
        error: why there is no answer.
    """

    start: float
    end: float = 0.0
    events: list[tuple[float, Mapping[str, Any]]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    tokens: int = 0
    prompt_tokens: int = 0
    error: str | None = None

    def read(self) -> None:
        """Find times and counts in what arrived. Done after the last answer, so that it takes nothing from a server."""
        counted = False
        for moment, event in self.events:
            if any(_says_something(choice.get("delta") or {}) for choice in event.get("choices") or ()):
                self.times.append(moment)
            usage = event.get("usage") or {}
            self.prompt_tokens = usage.get("prompt_tokens") or self.prompt_tokens
            if usage.get("completion_tokens") is not None:
                self.tokens, counted = usage["completion_tokens"], True
        if not counted:
            self.tokens = len(self.times)
        self.events = []

    @property
    def first(self) -> float | None:
        """Seconds until something could be read."""
        return self.times[0] - self.start if self.times else None

    @property
    def gaps(self) -> list[float]:
        """Seconds from each event to the next."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]

    def to_dict(self, origin: float) -> dict[str, Any]:
        """JSON-ready: milliseconds, ``start_ms`` since ``origin``."""
        return {
            "start_ms": _ms(self.start - origin),
            "ttft_ms": None if self.first is None else _ms(self.first),
            "latency_ms": _ms(self.end - self.start),
            "inter_token_ms": [_ms(gap) for gap in self.gaps],
            "output_tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens,
            "error": self.error,
        }


def _says_something(delta: Mapping[str, Any]) -> bool:
    return any(delta.get(key) for key in ("content", "reasoning_content", "reasoning", "tool_calls"))


def figures(samples: Sequence[Sample], seconds: float) -> dict[str, Any]:
    """The figures of a level of load; requests with an error are counted and left out of the rest."""
    good = [sample for sample in samples if sample.error is None]
    tokens = sum(sample.tokens for sample in good)
    return {
        "requests": len(samples),
        "errors": len(samples) - len(good),
        "seconds": round(seconds, 3),
        "output_tokens": tokens,
        "prompt_tokens": sum(sample.prompt_tokens for sample in good),
        "tokens_per_s": round(tokens / seconds, 2) if seconds else 0.0,
        "requests_per_s": round(len(good) / seconds, 3) if seconds else 0.0,
        "ttft_ms": percentiles([sample.first for sample in good if sample.first is not None], (50, 90, 99)),
        "inter_token_ms": percentiles([gap for sample in good for gap in sample.gaps], (50, 99)),
        "latency_ms": percentiles([sample.end - sample.start for sample in good], (50, 90, 99)),
    }


def percentiles(seconds: Sequence[float], wanted: Sequence[int]) -> dict[str, float | None]:
    """``{"p50": …}`` in milliseconds; ``None`` when there is nothing."""
    found = np.percentile(seconds, wanted) if seconds else [None] * len(wanted)
    return {f"p{at}": None if value is None else _ms(float(value)) for at, value in zip(wanted, found, strict=True)}


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
