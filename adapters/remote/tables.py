"""Which server honours which field, and how: the one table behind what is sent, refusals and the documentation.

What a server would silently ignore is not in its table, and so refused by name. ``docs/remote.md`` says which rows were
run against the server and which are from its documentation or source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.adapters.remote.rules import (
    allowed,
    at_most,
    constrained,
    formats,
    here,
    same,
)
from chatplan.adapters.remote.table import OPENAI, Table, all_by, all_same, auto_backend, named_schema
from chatplan.adapters.remote.table_llama_cpp import llama_cpp_table
from chatplan.adapters.remote.table_sglang import sglang_table
from chatplan.adapters.remote.table_tgi import tgi_table
from chatplan.adapters.remote.table_vllm import vllm_table
from chatplan.request import ChatCompletionRequest

__all__ = ["KINDS", "Table", "table_for"]

KINDS = ("chatplan", "vllm", "sglang", "llama.cpp", "tgi", "openai")


def table_for(kind: str, version: str | None = None, about: Mapping[str, Any] | None = None) -> Table:
    """The table of a kind of server.

    Args:
        version: the server's; ``None`` or one that cannot be read stands for the newest that is known.
        about: what the server says of itself.
    """
    makers = {
        "chatplan": _chatplan,
        "vllm": vllm_table,
        "sglang": sglang_table,
        "llama.cpp": llama_cpp_table,
        "tgi": tgi_table,
    }
    return makers.get(kind, _openai)(version, about or {})


def _chatplan(version: str | None, about: Mapping[str, Any]) -> Table:
    """All fields: the server refuses by itself what it cannot honour."""
    rules = {**all_by(ChatCompletionRequest.model_fields, same), **all_by(("stream", "request_id"), here)}
    return Table("the chatplan server", rules, plugin_fields=True, id_field="request_id")


def _openai(version: str | None, about: Mapping[str, Any]) -> Table:
    rules = {
        **OPENAI,
        **all_same("reasoning_effort"),
        **all_by(("guided_json", "structured_outputs"), constrained(json=named_schema)),
        "guided_decoding_backend": auto_backend,
        "response_format": formats("json_object", "json_schema"),
        "stop": at_most(4),
        "top_logprobs": at_most(20),
        "temperature": allowed(lambda value: value <= 2, "at most 2 there"),
    }
    only_json = "OpenAI's API knows constraints by JSON schema only"
    return Table("OpenAI's API", rules, dict.fromkeys(("guided_regex", "guided_choice", "guided_grammar"), only_json))
