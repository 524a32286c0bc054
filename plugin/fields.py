"""What is known of each field of the request: the one table behind the JSON schema, the playground and the reference.

Type, default, range, meaning and examples are those of the request's model; the owner is known from the plugins, and
from :mod:`chatplan.capabilities` which engines cannot honour it. Here is only in which group a field stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chatplan.capabilities import UNSUPPORTED

if TYPE_CHECKING:
    from chatplan.manager import Plugins

__all__ = ["GROUPS", "annotate_schema", "group_of", "request_schema"]

_MEMBERS = {
    "the conversation": "messages chat_template chat_template_kwargs documents add_generation_prompt "
    "continue_final_message add_special_tokens echo truncate_prompt_tokens",
    "sampling": "temperature top_p top_k min_p seed n best_of",
    "penalties": "repetition_penalty frequency_penalty presence_penalty",
    "tokens": "logit_bias allowed_token_ids bad_words",
    "length": "max_completion_tokens max_tokens min_tokens ignore_eos",
    "stops": "stop stop_token_ids include_stop_str_in_output",
    "constraints": "guided_json guided_regex guided_choice guided_grammar response_format structured_outputs "
    "guided_decoding_backend guided_whitespace_pattern",
    "tools": "tools tool_choice parallel_tool_calls",
    "reasoning": "reasoning_effort include_reasoning thinking_token_budget",
    "log-probabilities": "logprobs top_logprobs prompt_logprobs return_tokens_as_token_ids",
    "beam search": "use_beam_search length_penalty early_stopping",
    "text": "skip_special_tokens spaces_between_special_tokens",
    "the answer": "model stream stream_options user request_id return_token_ids",
    "serving": "priority cache_salt",
}
GROUPS: Mapping[str, tuple[str, ...]] = {group: tuple(names.split()) for group, names in _MEMBERS.items()}
"""The groups of built-in fields, in the order that they are shown in."""

_GROUP_OF = {name: group for group, names in GROUPS.items() for name in names}


def group_of(name: str, plugins: Plugins) -> str:
    """The group of a field; one that a plugin adds stands in a group of the plugin's name."""
    return _GROUP_OF.get(name) or " and ".join(plugins.fields.get(name, ())) or "other"


def request_schema(plugins: Plugins) -> dict[str, Any]:
    """The JSON schema of the request with the fields that ``plugins`` add, as :func:`annotate_schema` leaves it."""
    return annotate_schema(plugins.request_type.model_json_schema(), plugins)


def annotate_schema(schema: dict[str, Any], plugins: Plugins) -> dict[str, Any]:
    """Say in the request's schema where each property belongs; returns ``schema``.

    Each property has ``x-group``, ``x-plugins`` (names of the plugins that answer for it), and ``x-refused`` (engines
    that cannot honour it, each with the reason) where there are any.
    """
    for name, prop in schema["properties"].items():
        prop["x-group"] = group_of(name, plugins)
        prop["x-plugins"] = list(plugins.fields.get(name, ()))
        _lift(prop)
        refused = {engine: cannot[name] for engine, cannot in UNSUPPORTED.items() if name in cannot}
        if refused:
            prop["x-refused"] = refused
    return schema


def _lift(prop: dict[str, Any]) -> None:
    """What a plugin's type says of itself, pydantic writes beside null; readers look for it at the property."""
    for branch in prop.get("anyOf", ()):
        for key in ("description", "examples"):
            if key in branch and key not in prop:
                prop[key] = branch.pop(key)
