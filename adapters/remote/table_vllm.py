"""What vLLM honours. Its fields were read in its versions 0.6.3 to 0.33, and tried on 0.32."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from packaging.version import InvalidVersion, Version

from chatplan.adapters.remote.rules import (
    CONSTRAINTS,
    Refused,
    constrained,
)
from chatplan.adapters.remote.table import OPENAI, Table, all_by, all_same, auto_backend
from chatplan.request import ChatCompletionRequest

__all__ = ["vllm_table"]


_BEAMS = {"messages", "model", "n", "max_tokens", "max_completion_tokens", "temperature", "use_beam_search"}
_BEAMS |= {"length_penalty", "ignore_eos", "include_stop_str_in_output", "skip_special_tokens", "user", "request_id"}
_BEAMS |= {"truncate_prompt_tokens", "add_generation_prompt", "continue_final_message", "add_special_tokens", "echo"}
_BEAMS |= {"documents", "chat_template", "chat_template_kwargs", "stream", "stream_options"}


def _vllm_beams(name: str, value: Any, request: ChatCompletionRequest) -> Mapping[str, Any]:
    for other in request.given() if value else ():
        if other not in _BEAMS:
            raise Refused(f"vLLM's beam search ignores {other}")
    return {name: value}


def _vllm_constraint(key: str) -> Any:
    text = key in ("regex", "grammar", "structural_tag")
    return lambda found: {"structured_outputs": {key: found.text if text else found.value}}


def _guided(name: str) -> Any:
    text = name in ("guided_regex", "guided_grammar")
    return lambda found: {name: found.text if text else found.value}


def vllm_table(version: str | None, about: Mapping[str, Any]) -> Table:
    known = _version(version)
    rules = {
        **OPENAI,
        **all_same("stream_options response_format top_k min_p repetition_penalty length_penalty"),
        **all_same("stop_token_ids include_stop_str_in_output ignore_eos min_tokens skip_special_tokens"),
        **all_same("spaces_between_special_tokens truncate_prompt_tokens prompt_logprobs echo add_generation_prompt"),
        **all_same("continue_final_message add_special_tokens documents chat_template chat_template_kwargs"),
        "use_beam_search": _vllm_beams,
        "guided_decoding_backend": auto_backend,
    }
    if known >= Version("0.11"):
        rules |= all_same("allowed_token_ids bad_words return_token_ids return_tokens_as_token_ids cache_salt")
        rules |= all_same("reasoning_effort include_reasoning")
    if known >= Version("0.32"):
        rules |= all_same("thinking_token_budget")
    ways = {kind: _vllm_constraint(kind) for kind in ("json", "regex", "choice", "grammar", "structural_tag")}
    old = {kind: _guided(f"guided_{kind}") for kind in ("json", "regex", "choice", "grammar")}
    rules |= all_by(CONSTRAINTS, constrained(**(ways if known >= Version("0.12") else old)))
    if known < Version("0.12"):
        rules |= all_same("guided_json guided_regex guided_choice guided_grammar guided_decoding_backend")
        rules |= all_same("guided_whitespace_pattern")
    return Table(f"vLLM {version}" if version else "vLLM", rules, _VLLM_REASONS, id_field="request_id")


_VLLM_REASONS = {
    "best_of": "vLLM ignores it since its version 0.8",
    "early_stopping": "vLLM's beam search has no such rule",
    "guided_whitespace_pattern": "vLLM has blanks of its own in JSON since its version 0.12",
    "priority": "vLLM ignores it unless it schedules by priority, and does not say whether it does",
}


def _version(text: str | None) -> Version:
    try:
        return Version(text or "9999")
    except InvalidVersion:
        return Version("9999")
