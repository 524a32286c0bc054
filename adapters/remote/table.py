"""What a table of fields is, and what those of several kinds of servers share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chatplan.adapters.remote.rules import (
    Refused,
    Rule,
    here,
    local_stream_options,
    same,
    usual_tool_choice,
)
from chatplan.guided.constraint import Constraint
from chatplan.request import ChatCompletionRequest

__all__ = ["HERE", "OPENAI", "Table", "all_by", "all_same", "auto_backend", "named_schema"]


@dataclass(frozen=True)
class Table:
    """The fields that one kind of server honours.

    Attributes:
        server: what errors and explanations call it.
        rules: what is sent for a field; one that is not here is refused.
        reasons: why some of those are refused; for the others, because the server has no such field.
        plugin_fields: whether fields that plugins add may be sent.
        id_field: what the server calls the request's id; "" when it knows none.
    """

    server: str
    rules: Mapping[str, Rule]
    reasons: Mapping[str, str] = field(default_factory=dict)
    plugin_fields: bool = False
    id_field: str = ""

    @property
    def unsupported(self) -> Mapping[str, str]:
        """The fields that are refused whatever their value, and why."""
        names = [name for name in ChatCompletionRequest.model_fields if name not in self.rules]
        return {name: self.reasons.get(name, f"{self.server} has no such field") for name in names}


def all_same(names: str) -> dict[str, Rule]:
    return dict.fromkeys(names.split(), same)


def all_by(names: Iterable[str], rule: Rule) -> dict[str, Rule]:
    return dict.fromkeys(names, rule)


HERE: Mapping[str, Rule] = {
    **all_by(("stream", "request_id", "include_reasoning"), here),
    "stream_options": local_stream_options,
    "tool_choice": usual_tool_choice,
}
OPENAI: Mapping[str, Rule] = {
    **HERE,
    **all_same("messages model temperature top_p n seed frequency_penalty presence_penalty logit_bias logprobs"),
    **all_same("top_logprobs stop max_tokens max_completion_tokens tools parallel_tool_calls user"),
}


def auto_backend(name: str, value: Any, request: ChatCompletionRequest) -> Mapping[str, Any]:
    if value != "auto":
        raise Refused("the server chooses the library itself")
    return {}


def named_schema(found: Constraint) -> Mapping[str, Any]:
    schema = {"name": "answer", "schema": found.value, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}
