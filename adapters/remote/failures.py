"""What goes wrong at a server, or on the way to it, in words of ours."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from chatplan.errors import (
    AuthenticationError,
    ChatplanError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    RateLimitError,
    RequestError,
    TooLargeError,
)

__all__ = ["passes", "retry_after", "translated"]

_PASSING = (429, 502, 503)
_STATUS_OF_TYPE = {  # in an event of a stream there is no status but this
    "BadRequestError": 400,
    "NotFoundError": 404,
    "RateLimitError": 429,
    "ServiceUnavailableError": 503,
    "TimeoutError": 504,
    "overloaded": 503,
    "validation": 422,
}


def passes(error: Exception) -> bool:
    """Whether another try, or another server, may do."""
    if isinstance(error, openai.APIStatusError):
        return error.status_code in _PASSING and error.code != "insufficient_quota"
    if isinstance(error, openai.APITimeoutError):
        return "Connect" in type(error.__cause__).__name__  # the rest is an answer that takes long
    return isinstance(error, openai.APIConnectionError) or _of_transport(error)


def _of_transport(error: Exception) -> bool:
    """Older versions of the client let errors of their HTTP library through while they read a stream."""
    return type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2")


def retry_after(error: Exception) -> float | None:
    """The seconds that the server wants us to wait, if it says so."""
    if not isinstance(error, openai.APIStatusError):
        return None
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        if re.fullmatch(r"\d+(\.\d+)?", headers.get(name, "")):
            return float(headers[name]) * unit
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    except (KeyError, ValueError):
        return None


def translated(error: Exception) -> ChatplanError:
    """The error as one of ours. Addresses are for logs, not for those who ask."""
    if isinstance(error, ChatplanError):
        return error
    if isinstance(error, openai.APITimeoutError) and not passes(error):
        return DeadlineError("the server took longer than the time limit")
    if isinstance(error, openai.APIConnectionError) or _of_transport(error):
        return OverloadedError(
            f"the server cannot be reached, or the connection broke: {error.__cause__ or error}",
            code="upstream_unreachable",
        )
    if not isinstance(error, openai.APIError):
        reason = f"the server's answer cannot be read: {type(error).__name__}: {error}"
        return EngineError(reason, code="upstream_answer")
    body = error.body if isinstance(error.body, Mapping) else {}
    status = error.status_code if isinstance(error, openai.APIStatusError) else _status_of(body)
    return _of_status(status, body, _text(error, body), retry_after(error) or 1.0)


def _status_of(body: Mapping[str, Any]) -> int:
    code = body.get("code")
    if isinstance(code, int):
        return code
    return _STATUS_OF_TYPE.get(str(body.get("type") or body.get("error_type")), 500)


def _text(error: openai.APIError, body: Mapping[str, Any]) -> str:
    """One line with what the server says, which may be an object, a list of details, a text or nothing."""
    said = body.get("message") or body.get("detail") or error.body or error.message
    if isinstance(said, list) and said and isinstance(said[0], Mapping):
        said = "; ".join(str(item.get("msg")) for item in said)
    return f"the server says: {' '.join(str(said).split())[:2000]}"


def _of_status(status: int, body: Mapping[str, Any], text: str, wait: float) -> ChatplanError:
    param, code = _param(body), body.get("code")
    code = code if isinstance(code, str) else None
    if status in (400, 422, 501):
        too_long = re.search(r"context[ _](length|size)", f"{code} {body.get('type')} {text}")
        return (ContextLengthError if too_long else RequestError)(text, param=param, code=code)
    if status == 404:
        about_model = param == "model" or code == "model_not_found" or "model" in text
        return ModelNotFoundError(text, param="model") if about_model else EngineError(text, code="upstream_answer")
    if status in (429, 502, 503):
        kind = RateLimitError if status == 429 else OverloadedError
        return kind(text, param=param, code=code, retry_after=wait)
    kinds: dict[int, type[ChatplanError]] = {
        401: AuthenticationError,
        403: PermissionDeniedError,
        408: DeadlineError,
        413: TooLargeError,
        504: DeadlineError,
    }
    return kinds.get(status, EngineError)(text, param=param, code=code)


def _param(body: Mapping[str, Any]) -> str | None:
    """The field that the server names, in our words as far as they differ."""
    param, detail = body.get("param"), body.get("detail")
    if param is None and isinstance(detail, list) and detail and isinstance(detail[0], Mapping):
        steps = [str(step) for step in detail[0].get("loc") or () if step != "body"]
        param = ".".join(steps) or None
    return None if param is None else str(param)
