"""What goes wrong at a TGI server, in words of ours."""

from __future__ import annotations

import asyncio
import re

from chatplan.errors import (
    AuthenticationError,
    ChatplanError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RequestError,
    TooLargeError,
)

__all__ = ["Refusal", "Unreachable", "passes", "translated"]

# TGI's names of what requests call otherwise.
_FIELDS = {
    "inputs": "messages",
    "max_new_tokens": "max_tokens",
    "top_n_tokens": "top_logprobs",
    "truncate": "truncate_prompt_tokens",
    "decoder_input_details": "prompt_logprobs",
}
_SAME = ("temperature", "top_p", "top_k", "repetition_penalty", "frequency_penalty", "seed", "stop", "best_of")
_PASSING = (429, 502, 503)


class Unreachable(Exception):
    """The server cannot be reached, or the connection broke."""


class Refusal(Exception):
    """The server answered with an error.

    Args:
        kind: TGI's ``error_type``, or "" when there is none.
        status: of HTTP; 200 when the error came in the middle of a stream, 0 when a client library kept it to itself.
    """

    def __init__(self, message: str, kind: str = "", status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message or f"HTTP {status}")
        self.kind: str = kind
        self.status: int = status
        self.retry_after: float | None = retry_after


def passes(error: Exception) -> bool:
    """Whether another try may work."""
    if isinstance(error, Refusal):
        return error.kind == "overloaded" or error.status in _PASSING
    return isinstance(error, Unreachable)


def translated(error: Exception) -> Exception:
    """The error as one of ours; what is no server's doing stays as it is."""
    if isinstance(error, Unreachable):
        return OverloadedError(f"the TGI server cannot be reached: {error}", code="upstream_unreachable")
    if isinstance(error, (TimeoutError, asyncio.TimeoutError)):
        return DeadlineError("the TGI server took longer than the time limit")
    return _of_refusal(error) if isinstance(error, Refusal) else error


def _of_refusal(error: Refusal) -> ChatplanError:
    text = f"the TGI server says: {error}"
    if error.kind == "overloaded" or error.status in _PASSING:
        return OverloadedError(text, code="upstream_overloaded", retry_after=error.retry_after or 1.0)
    if error.kind == "validation" or error.status in (400, 422):
        return _invalid(str(error), text)
    if error.status == 504:
        return DeadlineError(text)
    kinds: dict[int, type[ChatplanError]] = {
        401: AuthenticationError,
        403: PermissionDeniedError,
        404: ModelNotFoundError,
        413: TooLargeError,
    }
    return kinds.get(error.status, EngineError)(text)


def _invalid(message: str, text: str) -> RequestError:
    """TGI puts the names of its parameters in backticks."""
    names = [_FIELDS.get(name, name) for name in re.findall(r"`(\w+)`", message)]
    param = next((name for name in names if name in _SAME or name in _FIELDS.values()), None)
    if "inputs" in message and "tokens" in message:
        return ContextLengthError(text, param=param)
    return RequestError(text, param=param)
