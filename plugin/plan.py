"""A generation plan: everything an engine needs to know of one request, as data.

A plan prints, compares and serialises without a model's weights. The stateful parts (draws, counts, held-back text)
come to life in a :class:`~chatplan.row.Row`, when an engine runs the plan.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import BaseModel

if TYPE_CHECKING:
    from chatplan.output import OutputStage
    from chatplan.request import ChatCompletionRequest

__all__ = ["ENGINE_ATTRIBUTES", "Effect", "GenerationPlan", "OutputOrder", "Prompt", "Stage", "StopTokens", "describe"]


class Stage(IntEnum):
    """The order in which logits are worked on; it is that of vLLM's sampler, by which the fields are defined."""

    GRAMMAR = 10
    LOGPROBS = 20
    ALLOWED_TOKENS = 30
    BAD_WORDS = 40
    MIN_TOKENS = 50
    BIAS = 60
    PENALTIES = 70
    TEMPERATURE = 80
    MIN_P = 90
    TOP_K = 100
    TOP_P = 110
    PROCESSED_LOGPROBS = 120
    DRAW = 130


class OutputOrder(IntEnum):
    """The order of the output stages: from a token to what the reader gets."""

    DETOKENIZE = 10
    STOPS = 20
    REASONING = 30
    TOOL_CALLS = 40
    LOGPROBS = 50
    TOKEN_IDS = 60


ENGINE_ATTRIBUTES = {
    "num_samples": "rows drawn for the request, of which the best num_return_sequences are answered",
    "seed": "start of the request's own random streams, one for each row; None takes fresh entropy",
    "logprobs": "alternatives to report for each token of the answer; None for no report, -1 for the whole vocabulary",
    "prompt_logprobs": "the same for each token of the prompt",
}
"""What ``generation_config`` hooks may set beside the attributes of ``transformers.GenerationConfig``."""


@dataclass(frozen=True)
class Prompt:
    """A rendered and tokenised conversation.

    Attributes:
        token_ids: what the model reads.
        text: the rendered text, before tokenising and truncation.
        role: the role of the answer.
        echo: text to put in front of the answer.
        inputs: further model inputs, such as ``pixel_values``.
    """

    token_ids: tuple[int, ...]
    text: str = ""
    role: str = "assistant"
    echo: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StopTokens:
    """Stop when one of these tokens is generated; the answer's ``stop_reason`` is its id."""

    token_ids: tuple[int, ...]


class Effect(NamedTuple):
    """One thing that one plugin put into the plan."""

    plugin: str
    kind: str
    name: str
    value: Any


@dataclass(frozen=True)
class GenerationPlan:
    """One request, compiled. Made by :func:`chatplan.compile_plan`."""

    request: ChatCompletionRequest
    request_id: str
    model: str
    prompt: Prompt
    template_args: Mapping[str, Any]
    generation_config: Mapping[str, Any]
    processors: tuple[tuple[Stage, Any], ...]
    stopping_criteria: tuple[Any, ...]
    output_stages: tuple[OutputStage, ...]
    effects: tuple[Effect, ...] = ()

    @property
    def choices(self) -> int:
        """Answers the request gets back."""
        return int(self.generation_config.get("num_return_sequences") or 1)

    @property
    def samples(self) -> int:
        """Rows that are generated; more than :attr:`choices` when the best of several are kept."""
        return max(self.choices, int(self.generation_config.get("num_samples") or 1))

    @property
    def beams(self) -> int:
        """Width of beam search; 1 means none."""
        return int(self.generation_config.get("num_beams") or 1)

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of one answer."""
        return int(self.generation_config["max_new_tokens"])

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data; golden files and ``chatplan explain --json`` hold this."""
        return {
            "request_id": self.request_id,
            "model": self.model,
            "prompt": describe(self.prompt),
            "template_args": describe(self.template_args),
            "generation_config": describe(self.generation_config),
            "processors": [{"stage": stage.name.lower(), **_named(item)} for stage, item in self.processors],
            "stopping_criteria": [_named(item) for item in self.stopping_criteria],
            "output_stages": [
                {"order": OutputOrder(item.order).name.lower(), **_named(item)} for item in self.output_stages
            ],
        }

    def to_json(self, **kwargs: Any) -> str:
        """:meth:`to_dict` as JSON text; keywords go to ``json.dumps``."""
        return json.dumps(self.to_dict(), **{"ensure_ascii": False, **kwargs})

    def __str__(self) -> str:
        return self.to_json(indent=2)

    def _repr_html_(self) -> str:
        from chatplan.display.view import plan_html

        return plan_html(self)


def describe(value: Any) -> Any:
    """``value`` as JSON-ready data: objects by their fields, what JSON has no word for by the name of its type."""
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(describe(item) for item in value)
    if dataclasses.is_dataclass(value):
        # What has no part in the repr is no data: caches, compiled forms of what other fields say.
        return {item.name: describe(getattr(value, item.name)) for item in dataclasses.fields(value) if item.repr}
    if isinstance(value, BaseModel):
        return describe(value.model_dump(exclude_unset=True, by_alias=True))
    shape = f"{tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"<{type(value).__name__}{shape}>"


def _named(item: Any) -> dict[str, Any]:
    """An item of a plan: its type, and its fields or public attributes."""
    if dataclasses.is_dataclass(item):
        return {"type": type(item).__name__, **describe(item)}
    public = {name: describe(value) for name, value in vars(item).items() if not name.startswith("_")}
    return {"type": type(item).__name__, **public}
