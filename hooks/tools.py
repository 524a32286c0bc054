"""Tools: into the prompt, and as grammars for the calls that a request insists on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from chatplan.answering import NEEDS_PARSER, can_parse, offers_tools, reading
from chatplan.errors import RequestError
from chatplan.families import CallSyntax
from chatplan.guided.arguments import ANY_ARGUMENTS, arguments_schema
from chatplan.guided.constraint import Constraint
from chatplan.guided.wishes import wished
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt
from chatplan.request import ChatCompletionRequest
from chatplan.templates import template_of, template_variables


@hookimpl
def request_fields() -> Collection[str]:
    return ["tools", "tool_choice", "parallel_tool_calls"]


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """Calls must be readable, and what is enforced must not be something else already."""
    if not offers_tools(request):
        return
    if not can_parse():
        raise RequestError(NEEDS_PARSER, param="tools")
    names = [tool.function.name for tool in request.tools or ()]
    for at, name in enumerate(names):
        if name in names[:at]:
            raise RequestError(f"two functions are called {name!r}", param=f"tools[{at}].function.name")
        if any(token in name for token in model.tokens.special.values()):
            raise RequestError(f"holds a special token of the model, got {name!r}", param=f"tools[{at}].function.name")
    guide = wished(request)
    if guide is not None and request.tool_choice != "auto":
        raise RequestError(f"an answer that must call a tool cannot follow {guide.param} as well", param="tool_choice")
    if request.tool_choice == "auto" and _unknown_family(request, model):
        reason = "the chat template writes tools in a form of its own, and how its calls are marked is not known; "
        raise RequestError(f"{reason}set tool_call_parser, or enforce calls by tool_choice", param="tools")


def _unknown_family(request: ChatCompletionRequest, model: ModelInfo) -> bool:
    known = model.answer_format is not None and "tool_calls" in model.answer_format.response_template["fields"]
    return not known and "tools" in template_variables(template_of(model, request.chat_template))


@hookimpl
def template_args(request: ChatCompletionRequest, model: ModelInfo) -> Mapping[str, Any] | None:
    """Tools as the template reads them. Templates that read none get a system prompt from the `template` plugin."""
    if not offers_tools(request) or "tools" in (request.chat_template_kwargs or {}):
        return None
    return {"tools": [tool.model_dump(exclude_none=True) for tool in request.tools or ()]}


@hookimpl
def constraint(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Constraint | None:
    """Calls that the request insists on; with ``auto``, calls of strict functions once they have begun."""
    reader = reading(request, model) if offers_tools(request) else None
    if reader is None or reader.calls is None:
        _refuse_strict(request)
        return None
    syntax = reader.calls
    if request.tool_choice != "auto":
        return Constraint.of("structural_tag", _enforced(syntax, request), param="tool_choice")
    if wished(request) is not None:
        return Constraint.of("structural_tag", _enforced(syntax, request), param="tools", alternative=True)
    if not any(tool.function.strict for tool in request.tools or ()):
        return None
    if not syntax.trigger:
        _refuse_strict(request)
    return Constraint.of("structural_tag", _triggered(syntax, request), param="tools", alternative=True)


def _refuse_strict(request: ChatCompletionRequest) -> None:
    for at, tool in enumerate(request.tools or () if offers_tools(request) else ()):
        if tool.function.strict:
            reason = "this model's calls cannot be told from text once begun; tool_choice required enforces them"
            raise RequestError(reason, param=f"tools[{at}].function.strict")


class _Function(NamedTuple):
    """A function that may be called, and the schema of its arguments."""

    name: str
    arguments: Mapping[str, Any]


def _callable(request: ChatCompletionRequest, enforced: bool) -> list[_Function]:
    """The functions to choose from; with ``auto``, only strict ones are kept to their parameters."""
    choice, found = request.tool_choice, []
    for at, tool in enumerate(request.tools or ()):
        function = tool.function
        if isinstance(choice, str) or function.name == choice.function.name:
            kept = enforced or function.strict
            param = f"tools[{at}].function.parameters"
            schema = arguments_schema(function.parameters, param) if kept else ANY_ARGUMENTS
            found.append(_Function(function.name, schema))
    return found


def _enforced(syntax: CallSyntax, request: ChatCompletionRequest) -> Mapping[str, Any]:
    """Nothing but calls: one, or with ``parallel_tool_calls`` any number from one. A named function is called once."""
    once = not request.parallel_tool_calls or not isinstance(request.tool_choice, str)
    calls = {
        "type": "tags_with_separator",
        "tags": [_tag(syntax.begin_of(each.name), syntax.end, each.arguments) for each in _callable(request, True)],
        "separator": syntax.separator,
        "at_least_one": True,
        "stop_after_first": once,
    }
    ends = [{"type": "const_string", "value": text} for text in (syntax.start, syntax.stop)]
    return {"type": "sequence", "elements": [ends[0], calls, ends[1]]}


def _triggered(syntax: CallSyntax, request: ChatCompletionRequest) -> Mapping[str, Any]:
    """Free text, in which the trigger begins a call. Only strict functions keep to their parameters."""
    return {
        "type": "triggered_tags",
        "triggers": [syntax.trigger],
        "tags": [
            _tag(syntax.start + syntax.begin_of(each.name), syntax.end + syntax.stop, each.arguments)
            for each in _callable(request, False)
        ],
        "stop_after_first": not request.parallel_tool_calls,
    }


def _tag(begin: str, end: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "tag", "begin": begin, "content": {"type": "json_schema", "json_schema": schema}, "end": end}
