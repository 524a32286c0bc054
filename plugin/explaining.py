"""Why is the plan as it is? Which field, by which plugin, became what, and which engines can run it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatplan.capabilities import engines_for
from chatplan.compiler import compile_plan
from chatplan.plan import Effect, GenerationPlan, describe
from chatplan.request import ChatCompletionRequest

if TYPE_CHECKING:
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo

__all__ = ["Explanation", "FieldEffect", "effect_text", "explain"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_PREFIX = {
    "template_args": "template argument",
    "render_prompt": "prompt",
    "generation_config": "GenerationConfig",
    "logits_processors": "processor",
    "stopping_criteria": "stop rule",
    "output_stages": "output stage",
    "forward": "sent as",
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

    def _repr_html_(self) -> str:
        from chatplan.display.view import explanation_html

        return explanation_html(self)


Planner = Callable[["ChatCompletionRequest", "ModelInfo", "Plugins"], GenerationPlan]


def explain(
    request: ChatCompletionRequest, model: ModelInfo, plugins: Plugins, planner: Planner = compile_plan
) -> Explanation:
    """Explain a request, as ``planner`` makes its plan.

    What a field became is found by leaving it out: whatever the plan then lacks is the field's doing. So it holds for
    any plugin, without the plugin saying so.
    """
    plan = planner(request, model, plugins)
    fields: list[FieldEffect] = []
    found: set[str] = set()
    for name, value in request.given().items():
        owners = plugins.fields[name]
        other = _without(request, name, lambda left: planner(left, model, plugins))
        became = _lost(plan, other, name, owners)
        found.update(map(_key, became))
        texts = _texts(became) or _kept_out(plan, other) or _nothing(request, name)
        fields.append(FieldEffect(name, value, owners, texts, _engines(name)))
    rest = [effect for effect in plan.effects if _key(effect) not in found]
    standing = [FieldEffect(None, None, (effect.plugin,), _texts([effect]), _engines(None)) for effect in rest]
    return Explanation(plan, tuple(fields), tuple(standing))


def _without(
    request: ChatCompletionRequest, name: str, planned: Callable[[ChatCompletionRequest], GenerationPlan]
) -> GenerationPlan | None:
    """The plan without one field; ``None`` when the request makes no sense without it."""
    # Extra keys are among the fields that are set.
    values = {key: getattr(request, key) for key in request.model_fields_set if key != name}
    values["request_id"] = "-" if name == "request_id" else request.request_id
    try:
        return planned(type(request).model_construct(**values))
    except Exception:  # a plugin may take for granted that its fields come together
        return None


def _lost(plan: GenerationPlan, other: GenerationPlan | None, name: str, owners: Sequence[str]) -> list[Effect]:
    if other is None and name not in ChatCompletionRequest.model_fields:
        return [effect for effect in plan.effects if effect.plugin in owners]
    if other is None:
        return [effect for effect in plan.effects if effect.kind == "render_prompt"]
    left = {_key(effect) for effect in other.effects}
    return [effect for effect in plan.effects if _key(effect) not in left]


def _kept_out(plan: GenerationPlan, other: GenerationPlan | None) -> tuple[str, ...]:
    """What the plan would have without the field: a greedy request has no draw."""
    if other is None:
        return ()
    has = {_key(effect) for effect in plan.effects}
    return tuple(f"no {text}" for text in _texts([effect for effect in other.effects if _key(effect) not in has]))


def _key(effect: Effect) -> str:
    return f"{effect.plugin} {effect.kind} {effect.name} {_shown(effect.value)}"


def _shown(value: Any) -> str:
    """``value`` as text that is the same for equal objects: no addresses, and attributes where Python shows none."""
    if type(value).__repr__ is not object.__repr__:  # type: ignore[comparison-overlap]
        return _ADDRESS.sub("", repr(value))
    attributes = {name: item for name, item in getattr(value, "__dict__", {}).items() if not name.startswith("_")}
    return f"{type(value).__name__}({', '.join(f'{name}={_shown(item)}' for name, item in attributes.items())})"


def _nothing(request: ChatCompletionRequest, name: str) -> tuple[str, ...]:
    answers = {
        "model": "checked against the model's name",
        "stream": "chunks instead of a whole answer",
        "stream_options": "token counts in the stream",
        "request_id": "the answer's id",
        "user": "told to observers",
        "priority": "its place in the queue",
        "cache_salt": "shares cached prompts with the same salt alone",
    }
    return (answers.get(name, "no change: this is what holds without it"),)


def _texts(effects: Sequence[Effect]) -> tuple[str, ...]:
    return tuple(effect_text(effect) for effect in effects)


def effect_text(effect: Effect) -> str:
    """An effect in words."""
    what = _PREFIX[effect.kind]
    if effect.kind == "render_prompt":
        return f"{what} of {len(effect.value.token_ids)} tokens"
    if effect.kind == "logits_processors":
        return f"{what} {_shown(effect.value)} at {effect.name}"
    if effect.kind in ("template_args", "generation_config", "forward"):
        return f"{what} {effect.name}={_shown(effect.value)}"
    return f"{what} {_shown(effect.value)}"


def _engines(field: str | None) -> tuple[str, ...]:
    return engines_for(field)
