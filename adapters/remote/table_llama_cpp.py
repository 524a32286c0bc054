"""What the server of llama.cpp honours, as its source has it: it was not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.adapters.remote.rules import (
    CONSTRAINTS,
    Refused,
    allowed,
    constrained,
    ebnf,
    formats,
    gbnf_choice,
    here,
    renamed,
    usual_tool_choice,
)
from chatplan.adapters.remote.table import OPENAI, Table, all_by, all_same, auto_backend
from chatplan.request import ChatCompletionRequest

__all__ = ["llama_cpp_table"]


def llama_cpp_table(version: str | None, about: Mapping[str, Any]) -> Table:
    ways = {
        "json": lambda found: {"json_schema": found.value},
        "choice": lambda found: {"grammar": gbnf_choice(found)},
        "grammar": ebnf("grammar"),
    }
    rules = {
        **OPENAI,
        **all_same("min_p ignore_eos chat_template_kwargs add_generation_prompt"),
        **all_by(CONSTRAINTS, constrained(**ways)),
        "guided_decoding_backend": auto_backend,
        "user": here,
        "response_format": formats("json_object", "json_schema"),
        "seed": allowed(lambda value: 0 <= value < 2**32 - 1, "0 to 4294967294 there"),
        "top_k": lambda name, value, request: {name: max(0, value)},
        "repetition_penalty": renamed("repeat_penalty"),
        # Without it, twenty alternatives.
        "logprobs": lambda name, value, request: {name: value, "top_logprobs": max(1, request.top_logprobs or 0)},
        "top_logprobs": lambda name, value, request: {name: max(1, value)} if request.logprobs else {},
        "tool_choice": _only_words,
    }
    if (_build(version) or 0) < _LLAMA_CPP_N:
        del rules["n"]
    reasons = {"guided_regex": "llama.cpp knows no regular expressions", "n": "this build of llama.cpp ignores it"}
    return Table(f"llama.cpp {version}" if version else "llama.cpp", rules, reasons)


_LLAMA_CPP_N = 8000


def _build(version: str | None) -> int | None:
    """``b8123-0177c34`` is build 8123."""
    digits = (version or "").partition("-")[0].lstrip("b")
    return int(digits) if digits.isdigit() else None


def _only_words(name: str, value: Any, request: ChatCompletionRequest) -> Mapping[str, Any]:
    if isinstance(value, dict):
        raise Refused("llama.cpp cannot be told to call one function; use required with this tool alone")
    return usual_tool_choice(name, value, request)
