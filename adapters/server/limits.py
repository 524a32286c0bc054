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
    prompt = len(plan.prompt.token_ids)
    total = prompt + max(plan.samples, plan.beams) * plan.max_new_tokens
    if limit is not None and total > limit:
        param = "max_completion_tokens" if plan.request.max_completion_tokens else "max_tokens"
        raise RequestError(
            f"max_total_tokens={limit}, and this may come to {total}: {prompt} in the prompt, and "
            f"{max(plan.samples, plan.beams)} times {plan.max_new_tokens} in the answer",
            param=param,
            code=_CODE,
        )
