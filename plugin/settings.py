"""What is decided when a model is loaded, not by a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Start-up choices and limits.

    Attributes:
        logprobs_mode: ``raw`` reports the model's own log-probabilities; ``processed`` those after bias, penalties,
            temperature and filters, as the distribution that was drawn from.
        max_logprobs: the most alternatives that ``top_logprobs`` and ``prompt_logprobs`` may ask for; -1 lifts it.
        max_stop: the most stop strings of one request.
        batch_size: the most rows (choices of requests) that run through the model together.
        max_model_len: a context length in tokens below the model's own.
        guided_seconds: the most time to compile a constraint in.
        guided_bytes: the longest schema, expression or grammar, in bytes of UTF-8.
        guided_cache_bytes: how much memory compiled constraints may keep.
        tool_call_parser: name of the format in which the model writes tool calls and reasoning; ``None`` finds it out
            from the chat template.
    """

    logprobs_mode: Literal["raw", "processed"] = "raw"
    max_logprobs: int = 20
    max_stop: int = 64
    batch_size: int = 16
    max_model_len: int | None = None
    guided_seconds: float = 5.0
    guided_bytes: int = 256 * 1024
    guided_cache_bytes: int = 256 * 1024 * 1024
    tool_call_parser: str | None = None

    def __post_init__(self) -> None:
        if self.logprobs_mode not in ("raw", "processed"):
            raise ValueError(f"logprobs_mode: {self.logprobs_mode!r} is neither 'raw' nor 'processed'")
        lowest = {"max_logprobs": -1, "max_stop": 0, "batch_size": 1, "max_model_len": 1, "guided_bytes": 1}
        for name, least in lowest.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if self.guided_seconds <= 0:
            raise ValueError(f"guided_seconds: must be more than 0, got {self.guided_seconds}")
