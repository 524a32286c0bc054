"""What SGLang honours, as its source has it: it was not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.adapters.remote.rules import (
    CONSTRAINTS,
    Rule,
    constrained,
    ebnf,
    regex_choice,
    renamed,
    same,
)
from chatplan.adapters.remote.table import OPENAI, Table, all_by, all_same, auto_backend, named_schema

__all__ = ["sglang_table"]


def sglang_table(version: str | None, about: Mapping[str, Any]) -> Table:
    ways = {
        "json": named_schema,
        "regex": lambda found: {"regex": found.text},
        "choice": lambda found: {"regex": f"({regex_choice(found)})"},
        "grammar": ebnf("ebnf"),
    }
    rules: dict[str, Rule] = {
        **OPENAI,
        **all_same("top_k min_p repetition_penalty min_tokens stop_token_ids ignore_eos skip_special_tokens"),
        **all_same("chat_template_kwargs reasoning_effort cache_salt response_format"),
        **all_by(CONSTRAINTS, constrained(**ways)),
        "guided_decoding_backend": auto_backend,
        "include_stop_str_in_output": renamed("no_stop_trim"),
    }
    if not about.get("enable_deterministic_inference"):
        del rules["seed"]
    if about.get("enable_priority_scheduling") and about.get("schedule_low_priority_values_first"):
        rules["priority"] = same
    return Table(f"SGLang {version}" if version else "SGLang", rules, _SGLANG_REASONS, id_field="rid")


_SGLANG_REASONS = {
    "seed": "SGLang heeds it only when it was started with --enable-deterministic-inference",
    "priority": "SGLang was not started to schedule by priority with low values first",
}
