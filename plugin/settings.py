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
        scheduling_policy: ``fcfs`` answers in the order of coming; ``priority`` heeds the requests' ``priority``.
        max_num_seqs: the most rows in one step of the engine ``continuous``.
        max_num_batched_tokens: the most tokens in one step; longer prompts are read in several.
        kv_cache_bytes: memory for the keys and values of the engine ``continuous``; ``None`` takes 1 GiB on a CPU (more
            where two whole contexts need it), and what is left on a GPU.
        enable_prefix_caching: whether prompts that begin alike share their cache.
        trust_request_chat_template: whether requests may bring a ``chat_template`` of their own. It is a program: it
            cannot reach out of its sandbox, but it can use up time and memory.
        pack_weights: lay out linear layers for the CPU's matrix products, where the engine ``continuous`` runs on one;
            ``None`` does so when the model is served and nobody else uses it.
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
    scheduling_policy: Literal["fcfs", "priority"] = "fcfs"
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    kv_cache_bytes: int | None = None
    enable_prefix_caching: bool = True
    trust_request_chat_template: bool = True
    pack_weights: bool | None = None
    tool_call_parser: str | None = None

    def __post_init__(self) -> None:
        if self.logprobs_mode not in ("raw", "processed"):
            raise ValueError(f"logprobs_mode: {self.logprobs_mode!r} is neither 'raw' nor 'processed'")
        if self.scheduling_policy not in ("fcfs", "priority"):
            raise ValueError(f"scheduling_policy: {self.scheduling_policy!r} is neither 'fcfs' nor 'priority'")
        for name, least in _LOWEST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name}: must be at least {least}, got {value}")
        if self.guided_seconds <= 0:
            raise ValueError(f"guided_seconds: must be more than 0, got {self.guided_seconds}")


_LOWEST = {
    "max_logprobs": -1,
    "max_stop": 0,
    "batch_size": 1,
    "max_model_len": 1,
    "guided_bytes": 1,
    "max_num_seqs": 1,
    "max_num_batched_tokens": 1,
    "kv_cache_bytes": 1,
}
