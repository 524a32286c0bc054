"""Compiles a request into a generation plan, by asking every hook. How hooks' results combine is written here alone."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from chatplan.errors import PluginConflictError, PluginError, RequestError, UnsupportedFieldError
from chatplan.guided.constraint import Constraint
from chatplan.output import OutputStage
from chatplan.plan import ENGINE_ATTRIBUTES, Effect, GenerationPlan, Prompt, Stage
from chatplan.request_rules import shown

if TYPE_CHECKING:
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo
    from chatplan.request import ChatCompletionRequest

__all__ = ["compile_plan"]


def compile_plan(
    request: ChatCompletionRequest, model: ModelInfo, plugins: Plugins, unsupported: Mapping[str, str] | None = None
) -> GenerationPlan:
    """The plan of ``request``.

    Args:
        unsupported: fields that the engine cannot honour, with reasons.

    Raises:
        RequestError: a field is refused; ``UnsupportedFieldError`` when nobody answers for it.
        PluginConflictError: two plugins want different things.
    """
    check_fields(request, plugins, unsupported or {})
    model = plugins.introduce(model)
    plugins.ask("check_request", request=request, model=model)
    effects: list[Effect] = []
    args = merge("template_args", plugins.ask("template_args", request=request, model=model), effects)
    prompt = render(request, model, args, plugins, effects)
    about = {"request": request, "prompt": prompt, "model": model}
    config = merge("generation_config", plugins.ask("generation_config", **about), effects)
    check_attributes(config, effects)
    masks = grammar_mask(request, prompt, model, plugins)
    processors = staged([*masks, *plugins.ask("logits_processors", **about)], effects)
    stopping = collect("stopping_criteria", plugins.ask("stopping_criteria", **about), effects)
    outputs = collect("output_stages", plugins.ask("output_stages", **about), effects)
    return GenerationPlan(
        request=request,
        # A request object may be answered more than once; an id it was not given is new each time.
        request_id=request.request_id if "request_id" in request.model_fields_set else uuid.uuid4().hex,
        model=request.model or model.name,
        prompt=prompt,
        template_args=args,
        generation_config=config,
        processors=processors,
        stopping_criteria=tuple(stopping),
        output_stages=tuple(sorted(outputs, key=lambda stage: stage.order)),
        effects=tuple(effects),
    )


def check_fields(request: ChatCompletionRequest, plugins: Plugins, unsupported: Mapping[str, str]) -> None:
    """Nothing is ever silently ignored: each field that is set has a plugin that answers for it."""
    for name, value in request.given().items():
        if name not in plugins.fields:
            close = get_close_matches(name, plugins.fields, n=1)
            hint = f"; did you mean {close[0]}?" if close and name not in type(request).model_fields else ""
            reason = "no plugin answers for this field, so it is refused rather than ignored"
            raise UnsupportedFieldError(name, f"{reason}, got {shown(value)}{hint}")
        if name in unsupported:
            raise UnsupportedFieldError(name, f"{unsupported[name]}, got {shown(value)}")


def merge(hook: str, answers: Iterable[tuple[str, Mapping[str, Any]]], effects: list[Effect]) -> dict[str, Any]:
    """One dict of all plugins' dicts; a key with two values is a conflict."""
    merged: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for plugin, answer in answers:
        if not isinstance(answer, Mapping):
            raise _wrong(plugin, hook, answer, "a mapping")
        for key, value in answer.items():
            if key in merged and merged[key] != value:
                raise PluginConflictError(f"{hook}[{key!r}] = {merged[key]!r} or {value!r}", (owner[key], plugin))
            if key not in merged:
                effects.append(Effect(plugin, hook, key, value))
            merged[key] = value
            owner.setdefault(key, plugin)
    return merged


def render(
    request: ChatCompletionRequest, model: ModelInfo, args: Mapping[str, Any], plugins: Plugins, effects: list[Effect]
) -> Prompt:
    """The first plugin's prompt."""
    answer = plugins.ask_first("render_prompt", request=request, model=model, template_args=args)
    if answer is None:
        raise PluginError("no plugin renders prompts; the built-in `template` is switched off")
    plugin, prompt = answer
    if not isinstance(prompt, Prompt):
        raise _wrong(plugin, "render_prompt", prompt, "a Prompt")
    effects.append(Effect(plugin, "render_prompt", "prompt", prompt))
    return prompt


def check_attributes(config: Mapping[str, Any], effects: Iterable[Effect]) -> None:
    """A misspelt attribute would have no effect, so it is an error."""
    for key in config:
        if key not in ENGINE_ATTRIBUTES and key not in _generation_attributes():
            plugin = next(each.plugin for each in effects if each.kind == "generation_config" and each.name == key)
            raise PluginError(f"plugin {plugin!r}: GenerationConfig has no attribute {key!r}")
    if "max_new_tokens" not in config:
        raise PluginError("no plugin sets max_new_tokens; the built-in `length` is switched off")


@lru_cache(maxsize=1)
def _generation_attributes() -> frozenset[str]:
    from transformers import GenerationConfig

    return frozenset(vars(GenerationConfig()))


def grammar_mask(
    request: ChatCompletionRequest, prompt: Prompt, model: ModelInfo, plugins: Plugins
) -> list[tuple[str, list[Any]]]:
    """The processor that keeps the answer to the constraint of ``request``, under the name of the plugin it is from."""
    answers = plugins.ask("constraint", request=request, prompt=prompt, model=model)
    for plugin, answer in answers:
        if not isinstance(answer, Constraint):
            raise _wrong(plugin, "constraint", answer, "a Constraint")
        if problem := answer.problem():
            raise PluginError(f"plugin {plugin!r}: its constraint {problem}")
    wanted = request.guided_decoding_backend or "auto"
    if not answers:
        if wanted != "auto":  # a name that is none is an error without a constraint as well
            plugins.enforcer(model).choose(wanted)
        return []
    from chatplan.guided.combine import one_constraint
    from chatplan.guided.mask import GrammarMask
    from chatplan.guided.thinking import after_reasoning, with_reasoning

    plugin, constraint = one_constraint(answers)
    if request.ignore_eos:
        raise RequestError(f"{constraint.param} says where the answer ends", param="ignore_eos")
    constraint = with_reasoning(constraint, request, prompt, model)
    backend, grammar = plugins.enforcer(model).compile(constraint, wanted)
    return [(plugin, [GrammarMask(constraint, backend, after_reasoning(constraint, grammar, model))])]


def staged(answers: Iterable[tuple[str, Iterable[Any]]], effects: list[Effect]) -> tuple[tuple[Stage, Any], ...]:
    """All processors, each with its stage, in the order in which they run."""
    found = []
    for plugin, items in answers:
        for item in _iterate(plugin, "logits_processors", items):
            pair = isinstance(item, tuple) and len(item) == 2
            stage, processor = item if pair else (getattr(item, "stage", None), item)
            if not isinstance(stage, Stage):
                raise PluginError(f"plugin {plugin!r}: {type(processor).__name__} comes without a Stage to run in")
            found.append((stage, processor))
            effects.append(Effect(plugin, "logits_processors", stage.name.lower(), processor))
    return tuple(sorted(found, key=lambda pair: pair[0]))


def collect(hook: str, answers: Iterable[tuple[str, Iterable[Any]]], effects: list[Effect]) -> list[Any]:
    """All plugins' items, in one list."""
    found = []
    for plugin, items in answers:
        for item in _iterate(plugin, hook, items):
            if hook == "output_stages" and not isinstance(item, OutputStage):
                raise _wrong(plugin, hook, item, "an OutputStage", "gave")
            found.append(item)
            effects.append(Effect(plugin, hook, type(item).__name__, item))
    return found


def _iterate(plugin: str, hook: str, items: Any) -> Iterable[Any]:
    if not isinstance(items, Iterable):
        raise _wrong(plugin, hook, items, "a list")
    return items


def _wrong(plugin: str, hook: str, answer: Any, wanted: str, verb: str = "returned") -> PluginError:
    return PluginError(f"plugin {plugin!r}: {hook} {verb} {type(answer).__name__}, not {wanted}")
