"""Which engine can honour which field: the one table behind refusals, ``chatplan explain`` and the documentation."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["UNSUPPORTED", "engines_for"]

_NO_SUCH = "a TGI server has nothing of the kind"

UNSUPPORTED: Mapping[str, Mapping[str, str]] = {
    "generate": {},
    "continuous": {},
    "tensor_parallel": {},
    "tgi": {
        **dict.fromkeys(["min_p", "logit_bias", "allowed_token_ids", "bad_words", "stop_token_ids"], _NO_SUCH),
        **dict.fromkeys(["use_beam_search", "min_tokens", "ignore_eos", "thinking_token_budget"], _NO_SUCH),
        "presence_penalty": "a TGI server takes it for a repetition penalty",
        "guided_grammar": "a TGI server takes JSON schemas and regular expressions only",
        "guided_whitespace_pattern": "a TGI server has blanks of its own",
        "priority": "a TGI server answers in the order of coming",
        "cache_salt": "a TGI server shares cached prompts among all requests",
    },
}
"""For each engine, the request fields it cannot honour, and why."""


def engines_for(field: str | None) -> tuple[str, ...]:
    """The engines that can honour ``field``; all of them for ``None``."""
    return tuple(engine for engine, cannot in UNSUPPORTED.items() if field not in cannot)
