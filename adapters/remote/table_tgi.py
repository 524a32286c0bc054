"""What TGI honours on its chat route, as its source has it: it was not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.adapters.remote.rules import (
    CONSTRAINTS,
    Refused,
    allowed,
    at_most,
    constrained,
    here,
    regex_choice,
    renamed,
)
from chatplan.adapters.remote.table import HERE, Table, all_by, all_same, auto_backend
from chatplan.guided.constraint import Constraint
from chatplan.request import ChatCompletionRequest

__all__ = ["tgi_table"]


def tgi_table(version: str | None, about: Mapping[str, Any]) -> Table:
    ways = {
        "json": _tgi_schema,
        "regex": lambda found: {"response_format": {"type": "regex", "value": found.text}},
        "choice": lambda found: {"response_format": {"type": "regex", "value": f"({regex_choice(found)})"}},
    }
    bound = renamed("max_tokens")
    rules = {
        **HERE,
        **all_same("messages model temperature frequency_penalty logprobs tools"),
        **all_by((*CONSTRAINTS, "response_format"), constrained(**ways)),
        "guided_decoding_backend": auto_backend,
        "user": here,
        "max_tokens": bound,
        "max_completion_tokens": bound,
        "stop": at_most(4),
        "top_logprobs": at_most(5),
        "top_p": lambda name, value, request: {name: value} if value < 1 else {},
        "seed": allowed(lambda value: value >= 0, "at least 0 there"),
        "parallel_tool_calls": _one_call,
    }
    return Table(f"TGI {version}" if version else "TGI", rules, _TGI_REASONS)


_TGI_REASONS = {
    "n": "TGI answers with one choice, whatever n says",
    "logit_bias": "TGI takes no object here",
    "presence_penalty": "TGI takes it for another penalty",
    "guided_grammar": "TGI knows constraints by JSON schema and regular expression only",
}


def _tgi_schema(found: Constraint) -> Mapping[str, Any]:
    if not isinstance(found.value, dict) or not found.value.get("properties"):
        raise Refused("TGI wants a schema with properties")
    return {"response_format": {"type": "json", "value": found.value}}


def _one_call(name: str, value: Any, request: ChatCompletionRequest) -> Mapping[str, Any]:
    if value:
        raise Refused("TGI makes one call at most")
    return {}
