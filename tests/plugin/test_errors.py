"""The tree of errors, and what each carries."""

from __future__ import annotations

import copy
import pickle

import pytest

from chatplan import errors
from chatplan.errors import (
    AuthenticationError,
    ChatplanError,
    ContextLengthError,
    DeadlineError,
    EngineError,
    ModelNotFoundError,
    OverloadedError,
    PermissionDeniedError,
    PluginConflictError,
    PluginError,
    RateLimitError,
    RequestError,
    TooLargeError,
    UnsupportedFieldError,
)

EXAMPLES: list[ChatplanError] = [
    ChatplanError("broken"),
    RequestError("should be less, got 5", param="n"),
    RequestError("odd", param="n", code="very_odd"),
    UnsupportedFieldError("shout", "too loud"),
    ContextLengthError("too long", param="messages"),
    ModelNotFoundError("who?", param="model"),
    PluginError("bad"),
    PluginConflictError("temperature", ["a", "b"], param="temperature"),
    EngineError("out of memory"),
    AuthenticationError("not valid"),
    PermissionDeniedError("not this model", param="model"),
    TooLargeError("the body is too long"),
    RateLimitError("too many", code="requests_per_minute", retry_after=7.5),
    OverloadedError("the queue is full", retry_after=2),
    DeadlineError("too late"),
]


@pytest.mark.parametrize(
    ("error", "parents", "status", "type_", "code"),
    [
        (RequestError, {ChatplanError}, 400, "BadRequestError", "invalid_value"),
        (UnsupportedFieldError, {RequestError}, 400, "BadRequestError", "unsupported_field"),
        (ContextLengthError, {RequestError}, 400, "BadRequestError", "context_length_exceeded"),
        (ModelNotFoundError, {RequestError}, 404, "NotFoundError", "model_not_found"),
        (PluginError, {ChatplanError}, 500, "InternalServerError", "plugin_error"),
        (PluginConflictError, {PluginError}, 500, "InternalServerError", "plugin_conflict"),
        (EngineError, {ChatplanError}, 500, "InternalServerError", "engine_error"),
        (AuthenticationError, {ChatplanError}, 401, "AuthenticationError", "invalid_credentials"),
        (PermissionDeniedError, {ChatplanError}, 403, "PermissionDeniedError", "permission_denied"),
        (TooLargeError, {ChatplanError}, 413, "BadRequestError", "request_too_large"),
        (RateLimitError, {ChatplanError}, 429, "RateLimitError", "rate_limit_exceeded"),
        (OverloadedError, {RateLimitError}, 503, "ServiceUnavailableError", "overloaded"),
        (DeadlineError, {ChatplanError}, 504, "TimeoutError", "deadline_exceeded"),
        (ChatplanError, {Exception}, 500, "InternalServerError", "internal_error"),
    ],
)
def test_the_tree(error: type[ChatplanError], parents: set[type], status: int, type_: str, code: str) -> None:
    assert set(error.__bases__) == parents
    assert (error.status, error.type, error.default_code) == (status, type_, code)


def test_the_tree_is_drawn_in_full() -> None:
    assert {type(error) for error in EXAMPLES} == {getattr(errors, name) for name in errors.__all__}
    assert all(name in (errors.__doc__ or "") for name in errors.__all__)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RequestError("should be less", param="n"), "n: should be less"),
        (RequestError("should be less"), "should be less"),
        (UnsupportedFieldError("shout", "too loud"), "shout: too loud"),
        (RequestError("two\nlines  and\tmore", param="stop"), "stop: two lines and more"),
        (PluginConflictError("x = 1 or 2", ["a", "b"]), "x = 1 or 2: a and b disagree"),
    ],
)
def test_as_one_line(error: ChatplanError, line: str) -> None:
    assert str(error) == line


def test_as_the_error_object_of_http() -> None:
    assert RequestError("two\nlines", param="n").to_dict() == {
        "error": {"message": "two\nlines", "type": "BadRequestError", "param": "n", "code": "invalid_value"}
    }
    assert EngineError("x").to_dict()["error"]["param"] is None
    assert RequestError("odd", code="very_odd").to_dict()["error"]["code"] == "very_odd"


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_errors_cross_process_borders(error: ChatplanError) -> None:
    for same in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(same) is type(error)
        assert str(same) == str(error)
        assert same.to_dict() == error.to_dict()
        assert vars(same) == vars(error)
        assert same.args == error.args


def test_a_conflict_keeps_its_plugins() -> None:
    conflict = PluginConflictError("x", iter(["a", "b"]))
    assert conflict.plugins == ("a", "b") == pickle.loads(pickle.dumps(conflict)).plugins
