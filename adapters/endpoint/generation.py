"""TGI's ``/generate``: its parameters as fields of a request, and an answer in its shape."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from chatplan.errors import RequestError, UnsupportedFieldError
from chatplan.request_rules import refusal, shown
from chatplan.request_types import Float, Int, PositiveInt

__all__ = ["FIELD_NAMES", "Grammar", "Parameters", "read_parameters"]

FIELD_NAMES = {
    "messages": "inputs",
    "max_tokens": "max_new_tokens",
    "truncate_prompt_tokens": "truncate",
    "n": "best_of",
    "top_logprobs": "top_n_tokens",
    "prompt_logprobs": "decoder_input_details",
    "guided_json": "grammar",
    "guided_regex": "grammar",
}
"""What a prompt's parameters call the fields of a request, for errors."""


class Grammar(BaseModel):
    """What the answer must match; a schema may be JSON text."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    type: Literal["json", "regex", "json_schema"]
    value: Any

    def fields(self) -> dict[str, Any]:
        """As a field of a request."""
        if self.type == "regex":
            return {"guided_regex": self.value}
        named = self.type == "json_schema" and isinstance(self.value, dict)
        return {"guided_json": self.value.get("schema", self.value) if named else self.value}


class Parameters(BaseModel):
    """TGI's parameters, with its ranges and defaults. Those that are not honoured are refused by name."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    do_sample: StrictBool = False
    max_new_tokens: PositiveInt = 100
    temperature: Annotated[Float, Field(gt=0)] | None = None
    top_k: PositiveInt | None = None
    top_p: Annotated[Float, Field(gt=0, le=1)] | None = None
    typical_p: Float | None = None
    repetition_penalty: Annotated[Float, Field(gt=0)] | None = None
    frequency_penalty: Annotated[Float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[Int, Field(ge=0, le=2**63 - 1)] | None = None
    stop: list[str] = []
    truncate: PositiveInt | None = None
    best_of: PositiveInt | None = None
    grammar: Grammar | None = None
    details: StrictBool = False
    decoder_input_details: StrictBool = False
    top_n_tokens: Annotated[Int, Field(ge=0)] | None = None
    return_full_text: StrictBool = False
    watermark: StrictBool = False
    adapter_id: str | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("watermark", "typical_p", "adapter_id")
    @classmethod
    def _not_honoured(cls, value: Any) -> Any:
        if value is True or value not in (False, 1.0):
            raise PydanticCustomError("request_rule", "is not supported")
        return value

    @property
    def sampling(self) -> bool:
        """Whether tokens are drawn; a temperature of 1 alone does not ask for that."""
        filters = self.top_k is not None or self.top_p not in (None, 1.0)
        return self.do_sample or filters or self.temperature not in (None, 1.0)

    @property
    def sequences(self) -> int:
        """How many answers to generate, of which the best is given first."""
        return self.best_of or 1

    @property
    def with_details(self) -> bool:
        """Whether the answer says more than its text; what only stands in the details asks for them."""
        return self.details or self.decoder_input_details or bool(self.top_n_tokens)

    def fields(self, prompt: str, seed: int | None) -> dict[str, Any]:
        """The request. Each sampling field is given, so that no default of the model's own steps in."""
        fields: dict[str, Any] = {
            "messages": [{"role": "user", "content": prompt}],
            "add_special_tokens": True,
            "max_tokens": self.max_new_tokens,
            "temperature": (self.temperature or 1.0) if self.sampling else 0.0,
            "top_k": self.top_k or -1,
            "top_p": self.top_p or 1.0,
            "min_p": 0.0,
            "repetition_penalty": self.repetition_penalty or 1.0,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "seed": seed,
            "n": self.sequences,
            "stop": self.stop,
            "include_stop_str_in_output": True,
            "truncate_prompt_tokens": self.truncate,
            **(self.grammar.fields() if self.grammar else {}),
        }
        return {**fields, **self._report()}

    def _report(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if self.with_details or self.sequences > 1:
            # One more alternative than asked for, as the drawn token takes a place of its own.
            top = self.top_n_tokens + 1 if self.top_n_tokens else None
            fields = {"logprobs": True, "top_logprobs": top, "return_tokens_as_token_ids": True}
        if self.decoder_input_details:
            fields |= {"prompt_logprobs": 0, "return_token_ids": True}
        return fields


def read_parameters(given: Mapping[str, Any], max_logprobs: int) -> Parameters:
    """``given`` as parameters; null is absent. ``max_logprobs`` bounds ``top_n_tokens``, unless it is -1.

    Raises:
        RequestError: naming the parameter.
    """
    stated = {name: value for name, value in given.items() if value is not None}
    for name, value in stated.items():
        if name not in Parameters.model_fields:
            close = get_close_matches(name, Parameters.model_fields, n=1, cutoff=0.7)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UnsupportedFieldError(name, f"a prompt has no such parameter, got {shown(value)}{hint}")
    try:
        parameters = Parameters.model_validate(stated)
    except ValidationError as error:
        raise refusal(error) from None
    if parameters.sequences > 1 and not parameters.sampling:
        raise RequestError(f"needs do_sample=true, got {parameters.best_of} without it", param="best_of")
    if 0 <= max_logprobs < (parameters.top_n_tokens or 0):
        reason = f"at most {max_logprobs} (the setting max_logprobs), got {parameters.top_n_tokens}"
        raise RequestError(reason, param="top_n_tokens")
    return parameters
