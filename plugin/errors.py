"""Every error chatplan raises on purpose.

    ChatplanError
    ├── RequestError             400  a field's value cannot be honoured
    │   ├── UnsupportedFieldError     no plugin or engine answers for the field
    │   ├── ContextLengthError        prompt and answer do not fit the model
    │   └── ModelNotFoundError   404  the request names another model
    ├── AuthenticationError      401  no credential, or one that is not valid
    ├── PermissionDeniedError    403  the credential does not allow this
    ├── TooLargeError            413  the body is longer than the server takes
    ├── RateLimitError           429  too much for this credential; carries ``retry_after``
    │   └── OverloadedError      503  the server takes no more: its queue is full, or it is shutting down
    ├── DeadlineError            504  the time limit is over
    ├── PluginError              500  a plugin is wrong, found when it is loaded or called
    │   └── PluginConflictError       two plugins want different things
    └── EngineError              500  the model failed while it generated

Each carries what an HTTP door, an endpoint handler and a person at a prompt need: ``message``, ``param`` (the request
field, ``None`` when there is none), ``code`` (stable, for programs), ``status`` (HTTP) and ``type`` (vLLM's name of the
kind of error). ``str(error)`` is one line, ``param: message``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "AuthenticationError",
    "ChatplanError",
    "ContextLengthError",
    "DeadlineError",
    "EngineError",
    "ModelNotFoundError",
    "OverloadedError",
    "PermissionDeniedError",
    "PluginConflictError",
    "PluginError",
    "RateLimitError",
    "RequestError",
    "TooLargeError",
    "UnsupportedFieldError",
]


class ChatplanError(Exception):
    """Base of all errors raised on purpose."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "InternalServerError"
    default_code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code: str = code or self.default_code

    def __str__(self) -> str:
        line = self.message if self.param is None else f"{self.param}: {self.message}"
        return " ".join(line.split())

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only arguments do not survive the default pickling, and errors cross process borders.
        return (_rebuild, (type(self), self.message, self.param, self.code), self.__dict__)

    def to_dict(self) -> dict[str, Any]:
        """The error object of the HTTP answer: ``{"error": {"message", "type", "param", "code"}}``."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


def _rebuild(cls: type[ChatplanError], message: str, param: str | None, code: str) -> ChatplanError:
    error = cls.__new__(cls)
    ChatplanError.__init__(error, message, param=param, code=code)
    return error


class RequestError(ChatplanError):
    """The request cannot be honoured as written; ``param`` names the field."""

    status = 400
    type = "BadRequestError"
    default_code = "invalid_value"


class UnsupportedFieldError(RequestError):
    """A field is set that nothing answers for. It is refused rather than ignored."""

    default_code = "unsupported_field"

    def __init__(self, param: str, reason: str, *, code: str | None = None) -> None:
        super().__init__(reason, param=param, code=code)


class ContextLengthError(RequestError):
    """Prompt, or prompt and answer together, are longer than the model's context."""

    default_code = "context_length_exceeded"


class ModelNotFoundError(RequestError):
    """The request asks for a model that is not the one being served."""

    status = 404
    type = "NotFoundError"
    default_code = "model_not_found"


class AuthenticationError(ChatplanError):
    """No credential, or one that is not valid. The message says no more than that; logs may."""

    status = 401
    type = "AuthenticationError"
    default_code = "invalid_credentials"


class PermissionDeniedError(ChatplanError):
    """The credential is valid and does not allow this."""

    status = 403
    type = "PermissionDeniedError"
    default_code = "permission_denied"


class TooLargeError(ChatplanError):
    """The body is longer than the server takes."""

    status = 413
    type = "BadRequestError"
    default_code = "request_too_large"


class RateLimitError(ChatplanError):
    """Too much for this credential; ``retry_after`` is the time in seconds until it is worth another try."""

    status = 429
    type = "RateLimitError"
    default_code = "rate_limit_exceeded"

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, retry_after: float = 1.0
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.retry_after = retry_after


class OverloadedError(RateLimitError):
    """The server takes no more: its queue is full, or it is shutting down."""

    status = 503
    type = "ServiceUnavailableError"
    default_code = "overloaded"


class DeadlineError(ChatplanError):
    """The answer did not begin, or did not end, in the time that the server allows."""

    status = 504
    type = "TimeoutError"
    default_code = "deadline_exceeded"


class PluginError(ChatplanError):
    """A plugin cannot be loaded, or returned something its hook does not allow."""

    default_code = "plugin_error"


class PluginConflictError(PluginError):
    """Two plugins gave different values for the same thing. Both are named; neither wins."""

    default_code = "plugin_conflict"

    def __init__(self, what: str, plugins: Iterable[str], *, param: str | None = None) -> None:
        self.plugins: tuple[str, ...] = tuple(plugins)
        super().__init__(f"{what}: {' and '.join(self.plugins)} disagree", param=param)


class EngineError(ChatplanError):
    """The model failed in the middle of generating."""

    default_code = "engine_error"
