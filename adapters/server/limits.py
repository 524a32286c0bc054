"""Limits on what one request may ask for, beyond those of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.adapters.server.settings import ServerSettings
    from chatplan.plan import GenerationPlan
    from chatplan.request import ChatCompletionRequest

__all__ = ["check_plan", "check_request"]

_CODE = "limit_exceeded"


def check_request(request: ChatCompletionRequest, settings: ServerSettings) -> None:
    """Raises :class:`RequestError` that names the field and the limit."""
    messages, choices = len(request.messages), settings.max_choices
    if messages > settings.max_messages:
        raise RequestError(f"max_messages={settings.max_messages}, got {messages}", param="messages", code=_CODE)
    if request.n > choices:
        raise RequestError(f"max_choices={choices}, got {request.n}", param="n", code=_CODE)
    if (request.best_of or 0) > choices:
        raise RequestError(f"max_choices={choices}, got {request.best_of}", param="best_of", code=_CODE)


def check_plan(plan: GenerationPlan, settings: ServerSettings) -> None:
    """Raises :class:`RequestError` when the tokens that ``plan`` may come to are too many."""
    limit = settings.max_total_tokens
    if limit is None:
        return
    param = "max_completion_tokens" if plan.request.max_completion_tokens else "max_tokens"
    # The plan of a request that goes elsewhere has no prompt, and what bound holds there is not known.
    bound = plan.generation_config.get("max_new_tokens") or plan.request.max_new_tokens_limit
    if bound is None:
        raise RequestError(f"max_total_tokens={limit}, so the answer needs a bound", param=param, code=_CODE)
    prompt, answers = (
        len(plan.prompt.token_ids),
        max(plan.samples, plan.beams, plan.request.n, plan.request.best_of or 1),
    )
    total = prompt + answers * bound
    if total > limit:
        counted = f"{prompt} in the prompt, and {answers} times {bound} in the answer"
        reason = f"max_total_tokens={limit}, and this may come to {total}: {counted}"
        raise RequestError(reason, param=param, code=_CODE)
