"""From what a task asks to a request of chatplan."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lm_eval.models.utils import (  # type: ignore[import-untyped]
    handle_stop_sequences,
    has_bos_prefix,
    normalize_gen_kwargs,
)

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.adapters.lm_eval.model import ChatLM

__all__ = ["as_request"]

_AS_IT_IS = "{{ messages[0].content }}"  # lm-eval has applied the chat template, if it was told to


def as_request(model: ChatLM, context: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The request for a text of lm-eval; keys of ``given`` that lm-eval does not define are fields of the request.

    Raises:
        RequestError: the answer would fill the whole context.
    """
    fields: dict[str, Any] = dict(normalize_gen_kwargs(dict(given), _limit(model)))
    limit = fields.pop("max_gen_toks")
    room = model.max_length - limit
    if room < 1:
        raise RequestError(f"leaves no room for a prompt in {model.max_length} tokens, got {limit}", param="max_tokens")
    until = [text for text in handle_stop_sequences(fields.pop("until"), None) if text]
    return {
        "messages": [{"role": "user", "content": context}],
        "chat_template": _AS_IT_IS,
        "add_special_tokens": _adds_bos(model, context),
        "truncate_prompt_tokens": room,
        "max_completion_tokens": limit,
        **({"stop": until} if until else {}),
        **_beams(fields),
        **_sampling(model, given, fields),
        **fields,
    }


def _limit(model: ChatLM) -> int:
    """Most tokens to generate where the task does not say."""
    own = model.chat.defaults
    return int(own.get("max_completion_tokens") or own.get("max_tokens") or model.max_gen_toks)


def _adds_bos(model: ChatLM, context: str) -> bool:
    if has_bos_prefix(context, getattr(model.tokenizer, "bos_token", None)):
        return False
    return True if model.add_bos_token is None else bool(model.add_bos_token)


def _sampling(model: ChatLM, given: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """Greedy unless the task says otherwise, or the model's arguments where the task says nothing."""
    sample = fields.pop("do_sample")
    temperature = fields.pop("temperature", None)
    if sample:
        return {} if temperature is None else {"temperature": temperature}
    says_nothing = given.get("do_sample") is None and given.get("temperature") is None
    return {} if says_nothing and "temperature" in model.chat.defaults else {"temperature": 0}


def _beams(fields: dict[str, Any]) -> dict[str, Any]:
    beams = fields.pop("num_beams", 1)
    return {"use_beam_search": True, "n": beams} if beams > 1 else {}
