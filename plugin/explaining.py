"""Why is the plan as it is? Which field, by which plugin, became what, and which engines can run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatplan.capabilities import engines_for
from chatplan.compiler import compile_plan
from chatplan.errors import ChatplanError
from chatplan.plan import Effect, GenerationPlan, describe

if TYPE_CHECKING:
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo
    from chatplan.request import ChatCompletionRequest

__all__ = ["Explanation", "FieldEffect", "explain"]

_PREFIX = {
    "template_args": "template argument",
    "render_prompt": "prompt",
    "generation_config": "GenerationConfig",
    "logits_processors": "processor",
    "stopping_criteria": "stop rule",
    "output_stages": "output stage",
}


@dataclass(frozen=True)
class FieldEffect:
    """One field of the request and what it became; ``field`` is ``None`` for what holds without being asked for."""

    field: str | None
    value: Any
    plugins: tuple[str, ...]
    became: tuple[str, ...]
    engines: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """A plan and its reasons: ``fields`` were set by the request, ``standing`` is in every plan of this model."""

    plan: GenerationPlan
    fields: tuple[FieldEffect, ...]
    standing: tuple[FieldEffect, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data; ``plan`` is as :meth:`GenerationPlan.to_dict` has it."""
        return {
            "fields": [describe(item) for item in self.fields],
            "standing": [describe(item) for item in self.standing],
            "plan": self.plan.to_dict(),
        }


def explain(request: ChatCompletionRequest, model: ModelInfo, plugins: Plugins) -> Explanation:
    """Explain a request.

    What a field became is found by leaving it out: whatever the plan then lacks is the field's doing. So it holds for
    any plugin, without the plugin saying so.
    """
    plan = compile_plan(request, model, plugins)
    fields: list[FieldEffect] = []
    found: set[str] = set()
    for name, value in request.given().items():
        became = _lost(plan, _without(request, name, model, plugins))
        found.update(map(_key, became))
        owners = plugins.fields[name]
        fields.append(FieldEffect(name, value, owners, _texts(became) or _nothing(request, name), _engines(name)))
    rest = [effect for effect in plan.effects if _key(effect) not in found]
    standing = [FieldEffect(None, None, (effect.plugin,), _texts([effect]), _engines(None)) for effect in rest]
    return Explanation(plan, tuple(fields), tuple(standing))


def _without(request: ChatCompletionRequest, name: str, model: ModelInfo, plugins: Plugins) -> GenerationPlan | None:
    """The plan without one field; ``None`` when the request makes no sense without it."""
    values = {key: getattr(request, key) for key in request.model_fields_set if key != name}
    extra = {key: value for key, value in (request.model_extra or {}).items() if key != name}
    values["request_id"] = "-" if name == "request_id" else request.request_id
    try:
        return compile_plan(type(request).model_construct(**values, **extra), model, plugins)
    except (ChatplanError, AttributeError):
        return None


def _lost(plan: GenerationPlan, other: GenerationPlan | None) -> list[Effect]:
    if other is None:
        return [effect for effect in plan.effects if effect.kind == "render_prompt"]
    left = {_key(effect) for effect in other.effects}
    return [effect for effect in plan.effects if _key(effect) not in left]


def _key(effect: Effect) -> str:
    return f"{effect.plugin} {effect.kind} {effect.name} {effect.value!r}"


def _nothing(request: ChatCompletionRequest, name: str) -> tuple[str, ...]:
    answers = {
        "model": "checked against the model's name",
        "stream": "chunks instead of a whole answer",
        "stream_options": "token counts in the stream",
        "request_id": "the answer's id",
        "user": "told to observers",
    }
    return (answers.get(name, "no change: this is what holds without it"),)


def _texts(effects: Sequence[Effect]) -> tuple[str, ...]:
    return tuple(_text(effect) for effect in effects)


def _text(effect: Effect) -> str:
    what = _PREFIX[effect.kind]
    if effect.kind == "render_prompt":
        return f"{what} of {len(effect.value.token_ids)} tokens"
    if effect.kind == "logits_processors":
        return f"{what} {effect.value!r} at {effect.name}"
    if effect.kind in ("template_args", "generation_config"):
        return f"{what} {effect.name}={effect.value!r}"
    return f"{what} {effect.value!r}"


def _engines(field: str | None) -> tuple[str, ...]:
    return engines_for(field)
