"""When a request is served, and whose cached prompts it may share."""

from __future__ import annotations

from collections.abc import Collection

from chatplan.errors import RequestError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.request import ChatCompletionRequest


@hookimpl
def request_fields() -> Collection[str]:
    return ["priority", "cache_salt"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """A priority that would not be heeded is refused."""
    if request.priority and model.settings.scheduling_policy != "priority":
        raise RequestError(
            f"got {request.priority}, but priority scheduling is not enabled (the setting scheduling_policy)",
            param="priority",
        )
