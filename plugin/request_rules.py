"""The rules that hold between fields, and what a refusal says.

Each rule takes a request whose fields are valid one by one, and raises an error that names the field to change.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.request import ChatCompletionRequest

__all__ = ["RULES", "refusal", "shown"]


def _refuse(param: str, reason: str) -> PydanticCustomError:
    # The reason goes in as a value: it may hold braces, which a template would read as places.
    return PydanticCustomError("request_rule", "{reason}", {"param": param, "reason": reason})


# --- rules ------------------------------------------------------------------------------------------------------------


def _stream_options(request: ChatCompletionRequest) -> None:
    if request.stream_options is not None and not request.stream:
        raise _refuse("stream_options", "can only be given with stream=true")


def _prompt_logprobs(request: ChatCompletionRequest) -> None:
    if request.prompt_logprobs and request.stream:
        raise _refuse("prompt_logprobs", f"is not available with stream=true, got {request.prompt_logprobs}")


def _top_logprobs(request: ChatCompletionRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise _refuse("top_logprobs", f"needs logprobs=true, got {request.top_logprobs} without it")


def _min_tokens(request: ChatCompletionRequest) -> None:
    limit = request.max_new_tokens_limit
    if limit is not None and request.min_tokens > limit:
        name = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
        raise _refuse("min_tokens", f"should be at most {name}={limit}, got {request.min_tokens}")


def _best_of(request: ChatCompletionRequest) -> None:
    best_of, n = request.best_of, request.n
    if best_of is None:
        return
    if best_of < n:
        raise _refuse("best_of", f"should be at least n={n}, got {best_of}")
    if request.stream and best_of != n and not request.use_beam_search:
        raise _refuse("best_of", f"should equal n={n} with stream=true, got {best_of}")


def _continue_final_message(request: ChatCompletionRequest) -> None:
    if request.continue_final_message and request.add_generation_prompt:
        raise _refuse("continue_final_message", "needs add_generation_prompt=false (its default is true): send both")


def _stop(request: ChatCompletionRequest) -> None:
    if "" in request.stop_list:
        raise _refuse("stop", f"cannot contain an empty string, got {shown(request.stop)}")


def _beam_search_only(request: ChatCompletionRequest) -> None:
    if request.use_beam_search:
        return
    if request.length_penalty != 1.0:
        raise _refuse("length_penalty", f"only acts with use_beam_search=true, got {request.length_penalty} without it")
    if request.early_stopping is not None:
        raise _refuse("early_stopping", f"only acts with use_beam_search=true, got {request.early_stopping} without it")


_GUIDES = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")


def _one_guide(request: ChatCompletionRequest) -> None:
    given = [name for name in _GUIDES if getattr(request, name) is not None]
    if request.response_format is not None and request.response_format.type != "text":
        given.append("response_format")
    if len(given) > 1:
        raise _refuse(given[1], f"only one constraint on the output is allowed, got {', '.join(given)}")


def _tool_choice(request: ChatCompletionRequest) -> None:
    choice = request.tool_choice
    if choice == "none":
        return
    if not request.tools:
        shown = choice if isinstance(choice, str) else choice.function.name
        raise _refuse("tool_choice", f"needs tools, got {shown!r} without any")
    names = [tool.function.name for tool in request.tools]
    if not isinstance(choice, str) and choice.function.name not in names:
        raise _refuse("tool_choice", f"should name one of the tools {', '.join(names)}, got {choice.function.name!r}")


RULES: tuple[Callable[[ChatCompletionRequest], None], ...] = (
    _stream_options,
    _prompt_logprobs,
    _top_logprobs,
    _min_tokens,
    _best_of,
    _continue_final_message,
    _stop,
    _beam_search_only,
    _one_guide,
    _tool_choice,
)

# --- what a refusal says ----------------------------------------------------------------------------------------------

_MAX_ERRORS = 5
_WORDS = {  # where pydantic's own words are about Python, or miss the point
    "missing": "is required",
    "model_type": "should be an object",
    "dict_type": "should be an object",
    "list_type": "should be a list",
    "string_type": "should be a string",
    "bool_parsing": "should be true or false",
    "bool_type": "should be true or false",
    "too_short": "should not be empty",
    "string_too_short": "should not be empty",
    "extra_forbidden": "is not a known key",
}


def refusal(error: ValidationError) -> RequestError:
    """The error a caller gets: one line for all problems, ``param`` is the first one's place."""
    problems = [(_place(details), _reason(details)) for details in error.errors(include_url=False)]
    param, message = problems[0]
    more = [f"{place}: {reason}" for place, reason in problems[1:_MAX_ERRORS]]
    if len(problems) > _MAX_ERRORS:
        more.append(f"and {len(problems) - _MAX_ERRORS} more")
    return RequestError("; ".join([message, *more]), param=param)


def _place(details: ErrorDetails) -> str | None:
    """``messages[0].content``, or None for the request as a whole."""
    context = details.get("ctx", {})
    if "param" in context:
        return str(context["param"])
    path = ""
    for part in details["loc"]:
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("<") and part != "[key]":  # tags of unions are no place in the request
            path += f".{part[:60]}"
    return path.removeprefix(".") or None


def _reason(details: ErrorDetails) -> str:
    kind, text = details["type"], details["msg"].removeprefix("Input ")
    if kind in ("request_rule", "missing"):
        return _WORDS.get(kind, text)
    return f"{_WORDS.get(kind, text[:1].lower() + text[1:])}, got {shown(details['input'])}"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60


def shown(value: Any) -> str:
    """``value`` as an error message shows it, 60 characters at most."""
    try:
        text = _short.repr(value)
    except ValueError:  # Python refuses to write out an int of more than 4300 digits
        text = "a huge number"
    return text if len(text) <= 60 else f"{text[:59]}…"
