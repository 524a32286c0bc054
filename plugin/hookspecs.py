"""The hooks. A plugin is anything with functions of these names marked ``@hookimpl``; take only the arguments you need.

Each hook is called once for a request, never once for a token: work at each token belongs to the objects a hook
returns. Hooks return values and the compiler combines them, as each docstring says; a conflict is an error that names
both plugins. They are listed in the order in which they are called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from chatplan.engine import Runner
    from chatplan.errors import ChatplanError
    from chatplan.families import AnswerFormat
    from chatplan.guided import Constraint, GrammarBackend
    from chatplan.model import ModelInfo
    from chatplan.output import OutputStage
    from chatplan.plan import Prompt
    from chatplan.principal import Principal
    from chatplan.request import ChatCompletionRequest
    from chatplan.response import Usage

__all__ = ["hookimpl"]

hookspec: pluggy.HookspecMarker = pluggy.HookspecMarker("chatplan")
hookimpl: pluggy.HookimplMarker = pluggy.HookimplMarker("chatplan")
"""Marks a function of a plugin as the implementation of the hook of its name."""


@hookspec
def request_fields() -> Collection[str]:  # type: ignore[empty-body]
    """The request fields this plugin answers for.

    Called once, when plugins are loaded. Union over all plugins: a field that a request sets and nobody answers for is
    refused by name.

    Return names. For a field chatplan does not know, return a dict of the name and its type, which makes it part of
    the request with validation and JSON schema: ``{"shout": float}``, or ``{"shout": (float, Field(0.0, ge=0))}``.
    """


@hookspec
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """Refuse a request that cannot be honoured, before any work is done for it.

    Raise :class:`~chatplan.RequestError` with ``param=`` the field; return nothing.
    """


@hookspec
def template_args(request: ChatCompletionRequest, model: ModelInfo) -> Mapping[str, Any] | None:
    """Variables for the chat template, as arguments of ``tokenizer.apply_chat_template``.

    Merged over all plugins; the same key with another value is a :class:`~chatplan.PluginConflictError`.
    """


@hookspec(firstresult=True)
def render_prompt(request: ChatCompletionRequest, model: ModelInfo, template_args: Mapping[str, Any]) -> Prompt | None:
    """The conversation as token ids, and further model inputs.

    The first plugin that returns something wins; the built-in one comes last and reads text only.
    """


@hookspec
def generation_config(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Mapping[str, Any] | None:
    """Attributes of ``transformers.GenerationConfig``, and those in ``chatplan.plan.ENGINE_ATTRIBUTES``.

    Merged like ``template_args``.
    """


@hookspec
def constraint(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Constraint | None:
    """What the whole answer must match, as a :class:`~chatplan.Constraint`.

    A request has one at most: two are an error that names both fields. The exception is one marked ``alternative``,
    such as a call of a tool: the answer then matches the one or the other. What is returned is compiled by a
    grammar backend, and the mask runs at ``Stage.GRAMMAR``.
    """


@hookspec
def logits_processors(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    """Work on the logits: :class:`~chatplan.Processor` objects, or pairs ``(Stage, transformers.LogitsProcessor)``.

    Sorted by stage. A ``Processor`` serves all rows of a batch at once; a plain ``LogitsProcessor`` sees its own row
    alone, as ``input_ids`` of shape ``[1, tokens]`` and ``scores`` of shape ``[1, vocabulary]``.
    """


@hookspec
def stopping_criteria(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[Any] | None:
    """When to stop: :class:`~chatplan.StopTokens`, or ``transformers.StoppingCriteria`` that see their own row alone.

    Any of them ends the row.
    """


@hookspec
def output_stages(request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo) -> Iterable[OutputStage] | None:
    """Work on what was generated, between the token and the reader. Sorted by ``order``."""


@hookspec(firstresult=True)
def engine(model: ModelInfo, options: Mapping[str, Any]) -> Runner | None:
    """The engine to run plans on; ``options["engine"]`` is the name asked for, or ``"auto"``.

    Called once, when a model is loaded. The first plugin that returns something wins; the built-in one comes last.
    """


@hookspec
def answer_formats() -> Mapping[str, Mapping[str, Any] | AnswerFormat] | None:
    """Formats in which model families write reasoning and tool calls, by name.

    Called once, when plugins are loaded. Each is an object as ``chatplan.families.AnswerFormat.from_dict`` takes it;
    it is chosen by its marks in the chat template, or by the setting ``tool_call_parser``.
    """


@hookspec
def grammar_backend(model: ModelInfo) -> GrammarBackend | None:
    """A library that compiles constraints, as a :class:`~chatplan.GrammarBackend`; ``None`` if it is not installed.

    Called once for a model. Requests choose one by ``guided_decoding_backend``; ``auto`` asks them in order, the one
    loaded last first, until one can enforce the whole constraint.
    """


@hookspec(firstresult=True)
def authenticate(headers: Mapping[str, str]) -> Principal | None:
    """Who sends an HTTP request; ``headers`` has lower-case names.

    Called for each HTTP request, in a thread, so it may wait for another server. ``None`` leaves the question to the
    next plugin; a credential of this plugin's own kind that is not valid raises
    :class:`~chatplan.AuthenticationError`. When all return ``None``, the answer is 401 (unless the server asks nobody).
    """


@hookspec
def request_finished(request: ChatCompletionRequest, usage: Usage | None, error: ChatplanError | None) -> None:
    """A request is over: with ``usage`` when it was answered, with ``error`` when it failed.

    An observer: what it returns is dropped, and what it raises is logged.
    """
