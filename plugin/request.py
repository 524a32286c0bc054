"""The request: every field of vLLM's chat completion request, with its type, default and range.

The first 50 fields are those of the published interface, in its order; newer spellings follow. null means absent: a
field given as null has its default and does not count as given.

Plugins add fields with ``pydantic.create_model(name, __base__=ChatCompletionRequest, field=(type, default))``. Keys
that no class declares are kept (:meth:`~ChatCompletionRequest.get`), and refused later if no plugin answers for them.
"""

from __future__ import annotations

import uuid
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatplan.content import OpenModel
from chatplan.messages import Message
from chatplan.request_rules import RULES, refusal
from chatplan.request_types import (
    Bias,
    BiasKey,
    CountOrAll,
    Float,
    Int,
    NonEmptyStr,
    PositiveInt,
    ResponseFormat,
    Schema,
    Seed,
    StreamOptions,
    StringOrList,
    StructuredOutputs,
    TokenBudget,
    TokenId,
    Tool,
    ToolChoice,
    TopK,
    nullable_schema,
    without_nothings,
)

__all__ = ["ChatCompletionRequest", "parse_request"]


class ChatCompletionRequest(BaseModel):
    """A request for a chat completion."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow", json_schema_extra=nullable_schema)

    messages: list[Message] = Field(
        min_length=1,
        description="The conversation so far, oldest message first.",
        examples=[[{"role": "user", "content": "Hi"}]],
    )
    model: str | None = Field(None, description="The served model or adapter; absent means the one that is served.")
    frequency_penalty: Float = Field(
        0.0, ge=-2, le=2, description="Subtracted from a token's logit once for each time it is in the output so far."
    )
    logit_bias: dict[BiasKey, Bias] | None = Field(
        None,
        description="Added to the logits of these token ids; clamped to -100 … 100.",
        examples=[{"50256": -100}],
    )
    logprobs: bool = Field(False, description="Return the log-probability of every generated token.")
    top_logprobs: CountOrAll | None = Field(
        None, description="How many alternatives to return at each position, -1 for all; needs logprobs."
    )
    max_tokens: PositiveInt | None = Field(
        None,
        description="The older name of max_completion_tokens, which wins if both are given.",
        json_schema_extra={"deprecated": True},
    )
    max_completion_tokens: PositiveInt | None = Field(
        None, description="Most tokens to generate for each choice; absent means as many as the context holds."
    )
    n: Int = Field(1, ge=1, le=20, description="How many choices to return; the beam width in beam search.")
    presence_penalty: Float = Field(
        0.0, ge=-2, le=2, description="Subtracted once from the logit of every token that is in the output so far."
    )
    response_format: ResponseFormat | None = Field(
        None,
        description="Make the answer plain text, any JSON, or JSON of a schema.",
        examples=[{"type": "json_object"}],
    )
    seed: Seed | None = Field(
        None, description="Makes sampling reproducible, whatever else is in the batch; -1 means none."
    )
    stop: StringOrList = Field([], description="The answer ends before the first of these strings.", examples=[["\n"]])
    stream: bool = Field(False, description="Send the answer in chunks while it is generated.")
    stream_options: StreamOptions | None = Field(None, description="How a stream reports token counts; needs stream.")
    temperature: Float | None = Field(
        None,
        ge=0,
        description="Divides the logits before sampling; 0 takes the likeliest token. "
        "Absent means what the model's generation_config says, else 0.7.",
    )
    top_p: Float = Field(
        1.0, gt=0, le=1, description="Sample from the fewest likeliest tokens whose probabilities sum to this."
    )
    tools: list[Tool] | None = Field(
        None,
        description="Functions the model may call.",
        examples=[[{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]],
    )
    tool_choice: ToolChoice = Field(
        "none",
        description="Call no tool, those the model chooses, at least one, or the named one. "
        "Absent means auto when there are tools.",
        examples=["auto", {"type": "function", "function": {"name": "weather"}}],
    )
    parallel_tool_calls: bool = Field(False, description="Allow more than one tool call in one answer.")
    user: str | None = Field(None, description="An id of the end user; it does not change the answer.")
    best_of: PositiveInt | None = Field(
        None, description="Sample this many answers and return the n with the highest total log-probability."
    )
    use_beam_search: bool = Field(False, description="Search with n beams instead of sampling.")
    top_k: TopK = Field(-1, description="Sample from this many likeliest tokens; -1 or 0 means all.", examples=[50])
    min_p: Float = Field(
        0.0, ge=0, le=1, description="Drop tokens that are less likely than this times the likeliest one."
    )
    repetition_penalty: Float = Field(
        1.0,
        gt=0,
        description="Logits of tokens in prompt or output are divided by this if positive, else multiplied by it.",
    )
    length_penalty: Float = Field(
        1.0, description="Beam search: a beam's score is its log-probability / (generated tokens ** this)."
    )
    stop_token_ids: list[TokenId] = Field([], description="The answer ends at the first of these tokens.")
    include_stop_str_in_output: bool = Field(False, description="Keep the text that stopped the answer.")
    ignore_eos: bool = Field(False, description="Treat the end-of-sequence token like any other and go on.")
    min_tokens: Int = Field(0, ge=0, description="Nothing ends the answer before this many tokens.")
    skip_special_tokens: bool = Field(True, description="Leave special tokens out of the text.")
    spaces_between_special_tokens: bool = Field(
        True, description="Put spaces around special tokens in the text; only slow tokenizers ever do."
    )
    truncate_prompt_tokens: PositiveInt | None = Field(None, description="Keep only the last so many prompt tokens.")
    prompt_logprobs: CountOrAll | None = Field(
        None, description="Return log-probabilities of the prompt with this many alternatives, -1 for all."
    )
    echo: bool = Field(
        False, description="Put the last message's text in front of the answer if both have the same role."
    )
    add_generation_prompt: bool = Field(True, description="Ask the chat template to open the assistant's turn.")
    continue_final_message: bool = Field(
        False, description="Go on with the last message instead of a new one; needs add_generation_prompt=false."
    )
    add_special_tokens: bool = Field(
        False, description="Let the tokenizer add special tokens (BOS) to what the template wrote."
    )
    documents: list[dict[str, str]] | None = Field(
        None,
        description="Documents for templates that know retrieval-augmented generation.",
        examples=[[{"title": "Tides", "text": "The moon pulls."}]],
    )
    chat_template: str | None = Field(None, description="A Jinja template to use instead of the model's.")
    chat_template_kwargs: dict[str, Any] | None = Field(
        None,
        description="More variables for the template; they override the standard ones.",
        examples=[{"enable_thinking": False}],
    )
    guided_json: Schema | None = Field(
        None, description="The answer is JSON of this schema (an object, or a string that holds one)."
    )
    guided_regex: str | None = Field(
        None, description="The whole answer matches this regular expression.", examples=["[0-9]{4}"]
    )
    guided_choice: list[str] | None = Field(
        None, min_length=1, description="The answer is one of these strings.", examples=[["yes", "no"]]
    )
    guided_grammar: str | None = Field(
        None, description="The answer follows this context-free grammar.", examples=['start: "yes" | "no"']
    )
    guided_decoding_backend: str | None = Field(None, description="The library that enforces the constraint.")
    guided_whitespace_pattern: str | None = Field(
        None, description="A regular expression for the whitespace allowed in JSON."
    )
    priority: Int = Field(0, description="Lower runs earlier; other than 0 needs an engine that schedules by priority.")
    request_id: NonEmptyStr = Field(
        default_factory=lambda: uuid.uuid4().hex,
        description="The answer's id is chatcmpl-<request_id>; default random.",
    )

    # Newer spellings
    structured_outputs: StructuredOutputs | None = Field(
        None, description="One constraint on the answer, in place of the guided_* fields.", examples=[{"regex": "a+"}]
    )
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = Field(
        None, description="How much the model should think before it answers, if its template knows."
    )
    include_reasoning: bool = Field(True, description="Return the model's reasoning beside its answer.")
    thinking_token_budget: TokenBudget | None = Field(
        None, description="Most tokens of reasoning, after which it is ended; -1 means no limit."
    )
    allowed_token_ids: list[TokenId] | None = Field(None, min_length=1, description="Generate only these tokens.")
    bad_words: list[NonEmptyStr] = Field([], description="Strings that must not be generated.")
    return_token_ids: bool = Field(False, description="Return the token ids of the prompt and of every choice.")
    return_tokens_as_token_ids: bool = Field(
        False, description="In logprobs, write tokens as token_id:<id>, so that any token can be told from any other."
    )
    cache_salt: NonEmptyStr | None = Field(None, description="Only requests with the same salt share cached prompts.")
    early_stopping: Literal[True, False, "never"] | None = Field(
        None, description="Beam search: stop at n finished beams (true), or when no better one is likely or possible."
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        given = without_nothings(data)
        if isinstance(given, dict) and given.get("tools"):
            given.setdefault("tool_choice", "auto")
        if isinstance(given, dict) and isinstance(given.get("messages"), (list, tuple)):
            given["messages"] = [_as_message(message) for message in given["messages"]]
        return given

    @model_validator(mode="after")
    def _rules(self) -> ChatCompletionRequest:
        for rule in RULES:
            rule(self)
        return self

    @property
    def max_new_tokens_limit(self) -> int | None:
        """Most tokens to generate for each choice, None if the request does not say."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def stop_list(self) -> list[str]:
        """The stop strings, also when one was given as a plain string."""
        return [self.stop] if isinstance(self.stop, str) else self.stop

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a field, or of a key that no class declares; ``default`` if there is no such thing."""
        if name in type(self).model_fields:
            return getattr(self, name)
        return (self.model_extra or {}).get(name, default)

    def given(self) -> dict[str, Any]:
        """What was set to something else than its default, extra keys included, in the order of the fields."""
        fields = type(self).model_fields
        names = [name for name in fields if name in self.model_fields_set]
        values = {name: getattr(self, name) for name in names}
        changed = {name: value for name, value in values.items() if value != fields[name].default}
        return changed | (self.model_extra or {})


def _as_message(message: Any) -> Any:
    """An answer's message goes back into the conversation as it is, ours or that of another library."""
    if isinstance(message, (dict, OpenModel)) or not hasattr(message, "model_dump"):
        return message
    return message.model_dump(exclude_none=True, exclude_unset=True)


def parse_request(data: Any, cls: type[ChatCompletionRequest] = ChatCompletionRequest) -> ChatCompletionRequest:
    """``data`` (an object, or a request already made) as a valid ``cls``.

    Raises :class:`chatplan.errors.RequestError`, which names the field, the value, and what is allowed.
    """
    if isinstance(data, cls):
        return data
    if isinstance(data, ChatCompletionRequest):
        data = data.model_dump(exclude_unset=True, by_alias=True)
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise refusal(error) from None
