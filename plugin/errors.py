"""Every error chatplan raises on purpose.

    ChatplanError
    ├── RequestError             400  a field's value cannot be honoured
    │   ├── UnsupportedFieldError     no plugin or engine answers for the field
    │   ├── ContextLengthError        prompt and answer do not fit the model
    │   └── ModelNotFoundError   404  the request names another model
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
    "ChatplanError",
    "ContextLengthError",
    "EngineError",
    "ModelNotFoundError",
    "PluginConflictError",
    "PluginError",
    "RequestError",
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
        self.code = code or self.default_code

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


class PluginError(ChatplanError):
    """A plugin cannot be loaded, or returned something its hook does not allow."""

    default_code = "plugin_error"


class PluginConflictError(PluginError):
    """Two plugins gave different values for the same thing. Both are named; neither wins."""

    default_code = "plugin_conflict"

    def __init__(self, what: str, plugins: Iterable[str], *, param: str | None = None) -> None:
        self.plugins = tuple(plugins)
        super().__init__(f"{what}: {' and '.join(self.plugins)} disagree", param=param)


class EngineError(ChatplanError):
    """The model failed in the middle of generating."""

    default_code = "engine_error"
