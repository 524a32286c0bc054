"""Beam search: the answers with the highest total log-probability, instead of drawn ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt
from chatplan.request import ChatCompletionRequest


@hookimpl
def request_fields() -> Collection[str]:
    return ["use_beam_search", "length_penalty", "early_stopping"]


@hookimpl
def generation_config(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Mapping[str, Any] | None:
    """``n`` beams, or ``best_of`` of which the best ``n`` are returned.

    ``early_stopping`` unset searches on while a better beam is possible, as vLLM does; beams are compared by
    log-probability / generated tokens ** ``length_penalty``.
    """
    if not request.use_beam_search:
        return None
    never = request.early_stopping is None
    return {
        "do_sample": False,
        "num_beams": max(request.n, request.best_of or 1),
        "num_return_sequences": request.n,
        "length_penalty": request.length_penalty,
        "early_stopping": "never" if never else request.early_stopping,
    }
