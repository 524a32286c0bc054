"""Answers that match a JSON schema, a regular expression, a choice or a grammar."""

from __future__ import annotations

from collections.abc import Collection

from chatplan.errors import RequestError
from chatplan.guided.constraint import Constraint
from chatplan.guided.wishes import wished
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt
from chatplan.request import ChatCompletionRequest


@hookimpl
def request_fields() -> Collection[str]:
    return [
        "response_format",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "guided_decoding_backend",
        "guided_whitespace_pattern",
    ]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """A whitespace pattern needs JSON to act on."""
    found = wished(request)
    on_json = found is not None and found.kind in ("json", "structural_tag")
    if request.guided_whitespace_pattern is not None and not on_json:
        raise RequestError("only acts on JSON: guided_json, response_format …", param="guided_whitespace_pattern")


@hookimpl
def constraint(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Constraint | None:
    return wished(request)
