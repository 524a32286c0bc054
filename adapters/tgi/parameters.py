"""A plan in TGI's words: what to send, or which field cannot be honoured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy import float32

from chatplan.adapters.tgi.grammar import grammar_of
from chatplan.errors import ContextLengthError, UnsupportedFieldError
from chatplan.guided.mask import GrammarMask
from chatplan.hooks.filters import MinP, TopK, TopP
from chatplan.hooks.logprobs import ReadLogprobs
from chatplan.hooks.penalties import Penalties
from chatplan.hooks.sampling import Draw, SumLogprobs, Temperature
from chatplan.hooks.stops import StopStrings
from chatplan.model import ModelInfo
from chatplan.plan import GenerationPlan
from chatplan.request import ChatCompletionRequest

__all__ = ["Limits", "parameters_of", "seeded", "text_of"]

_MOST_LOGPROBS = 5
_MOST_K = 2**31 - 1  # stands for more; no vocabulary has so many
_OWN_ATTRIBUTES = frozenset(
    "do_sample num_return_sequences seed num_samples max_new_tokens eos_token_id logprobs prompt_logprobs".split()
)


@dataclass(frozen=True)
class Limits:
    """What a server allows, as its ``/info`` says: the defaults are TGI's own.

    Attributes:
        best_of: the most samples of which it keeps the best.
        stops: the most stop strings.
        tokens: prompt and answer together; ``None`` when it does not say.
        inputs: of the prompt alone; ``None`` when it does not say.
    """

    best_of: int = 2
    stops: int = 4
    tokens: int | None = None
    inputs: int | None = None


Parameters = dict[str, Any]


def parameters_of(plan: GenerationPlan, limits: Limits) -> Parameters:
    """TGI's ``parameters``, without the seed of a row.

    Raises:
        UnsupportedFieldError: naming the field that TGI cannot honour.
    """
    _check(plan, limits)
    found: Parameters = {"do_sample": False, "max_new_tokens": plan.max_new_tokens, "details": True}
    for _, item in plan.processors:
        found.update(_parameters_of(plan, item))
    if not found["do_sample"]:  # the server draws as soon as one of these is there
        found = {name: value for name, value in found.items() if name not in ("top_k", "top_p")}
    if stops := stop_strings(plan):
        found["stop"] = stops
    if kept := plan.request.truncate_prompt_tokens:
        found["truncate"] = min(kept, limits.inputs or kept)
    if plan.samples > plan.choices:
        found["best_of"] = plan.samples
    return found


def stop_strings(plan: GenerationPlan) -> list[str]:
    """Those of the request, and of plugins."""
    return [text for stage in plan.output_stages if isinstance(stage, StopStrings) for text in stage.strings]


def seeded(parameters: Parameters, plan: GenerationPlan, index: int) -> Parameters:
    """The parameters of one choice. The same seed would give all choices the same answer, so each adds its index."""
    seed = plan.generation_config.get("seed")
    return parameters if seed is None else {**parameters, "seed": (seed + index) % 2**64}


def text_of(plan: GenerationPlan, model: ModelInfo) -> str:
    """The prompt as text that the server's tokenizer, which always adds special tokens, reads as the plan's tokens.

    Raises:
        UnsupportedFieldError: there is none.
    """
    text, ids = plan.prompt.text, list(plan.prompt.token_ids)
    bos = str(model.tokenizer.bos_token or "")
    for version in (text, text.removeprefix(bos)):
        read = model.tokenizer.encode(version)
        if version and read[-(plan.request.truncate_prompt_tokens or 0) :] == ids:
            return version
    reason = "a TGI server adds special tokens by itself, and would read other tokens than the chat template wrote"
    raise UnsupportedFieldError("add_special_tokens", reason)


# --- one processor ----------------------------------------------------------------------------------------------------


def _penalties(item: Penalties) -> Parameters:
    # A presence penalty of the request is refused before.
    found = {"repetition_penalty": item.repetition} if item.repetition != 1 else {}
    return {**found, "frequency_penalty": item.frequency} if item.frequency else found


_TRANSLATIONS: Mapping[type, Callable[[Any], Parameters]] = {
    Temperature: lambda item: {"temperature": item.temperature},
    Draw: lambda item: {"do_sample": True},
    TopK: lambda item: {"top_k": item.top_k} if item.top_k < _MOST_K else {},
    TopP: lambda item: {"top_p": item.top_p} if float32(item.top_p) < 1 else {},
    Penalties: _penalties,
    SumLogprobs: lambda item: {},
    GrammarMask: lambda item: {"grammar": grammar_of(item.constraint)},
}


def _parameters_of(plan: GenerationPlan, item: Any) -> Parameters:
    if isinstance(item, ReadLogprobs):
        return {"top_n_tokens": item.top} if item.top else {}
    translate = _TRANSLATIONS.get(type(item))
    if translate is None:
        raise _plugins_own(plan, item, type(item).__name__)
    return translate(item)


def _plugins_own(plan: GenerationPlan, item: Any, name: str) -> UnsupportedFieldError:
    """Work of a plugin, under the first field of its own that the request sets."""
    plugin = next((each.plugin for each in plan.effects if each.value is item), "?")
    own = [field for field in plan.request.given() if field not in ChatCompletionRequest.model_fields]
    reason = f"{name} of the plugin {plugin!r} works beside the model, and a TGI server lets nobody in there"
    return UnsupportedFieldError(own[0] if own else f"plugins.{plugin}", reason)


# --- values that cannot be honoured -----------------------------------------------------------------------------------


def _check(plan: GenerationPlan, limits: Limits) -> None:
    for refuse in (_plugins, _prompt, _stops, _logprobs, _samples, _backend, _checkpoint):
        refuse(plan, limits)


def _stops(plan: GenerationPlan, limits: Limits) -> None:
    count = len(stop_strings(plan))
    if count > limits.stops:
        raise UnsupportedFieldError("stop", f"this TGI server takes at most {limits.stops} stop strings, got {count}")


def _prompt(plan: GenerationPlan, limits: Limits) -> None:
    count = len(plan.prompt.token_ids)
    if limits.inputs is not None and count > limits.inputs:
        reason = f"this TGI server takes prompts of {limits.inputs} tokens, and this one has {count}"
        raise ContextLengthError(reason, param="messages")


def _backend(plan: GenerationPlan, limits: Limits) -> None:
    wanted = plan.request.guided_decoding_backend
    if wanted not in (None, "auto"):
        reason = f"a TGI server enforces constraints by a library of its own, got {wanted!r}"
        raise UnsupportedFieldError("guided_decoding_backend", reason)


def _logprobs(plan: GenerationPlan, limits: Limits) -> None:
    top = plan.generation_config.get("logprobs") or 0
    if not 0 <= top <= _MOST_LOGPROBS:
        raise UnsupportedFieldError("top_logprobs", f"a TGI server reports at most {_MOST_LOGPROBS}, got {top}")
    if plan.generation_config.get("prompt_logprobs"):
        param = "prompt_logprobs" if plan.request.prompt_logprobs else "echo"
        raise UnsupportedFieldError(param, "a TGI server reports the tokens of the prompt without alternatives: use 0")


def _samples(plan: GenerationPlan, limits: Limits) -> None:
    if plan.samples == plan.choices:
        return
    reasons = {
        f"this TGI server keeps the best of {limits.best_of} at most": plan.samples > limits.best_of,
        "a TGI server has no seed for the best of several": plan.generation_config.get("seed") is not None,
        "a TGI server does not stream the best of several": plan.request.stream,
        "the best of several greedy answers is any of them": not any(isinstance(i, Draw) for _, i in plan.processors),
    }
    for reason, holds in reasons.items():
        if holds:
            raise UnsupportedFieldError("best_of", f"{reason}, got {plan.samples}")


def _plugins(plan: GenerationPlan, limits: Limits) -> None:
    for item in plan.stopping_criteria:
        raise _plugins_own(plan, item, type(item).__name__)
    for name, value in plan.generation_config.items():
        if name not in _OWN_ATTRIBUTES:
            raise _plugins_own(plan, value, f"the attribute {name} of GenerationConfig")
    if plan.prompt.inputs:
        raise UnsupportedFieldError("messages", "only text goes to a TGI server")
    if (plan.generation_config.get("seed") or 0) < 0:
        raise UnsupportedFieldError("seed", "a TGI server takes seeds from 0")


def _checkpoint(plan: GenerationPlan, limits: Limits) -> None:
    """Values that the request leaves to the checkpoint, which may state what TGI has not."""
    if any(isinstance(item, MinP) for _, item in plan.processors):
        raise UnsupportedFieldError("min_p", "the checkpoint states one, and a TGI server has none; set min_p to 0")
