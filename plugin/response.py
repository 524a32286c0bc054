"""The answer: a completion, and the chunks it is streamed in.

``to_dict`` and ``to_json`` give exactly the keys of the wire format, by one rule: a key is written if it was set, or if
its class lists it in ``always_present`` (then it may be null).
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field

if TYPE_CHECKING:
    from chatplan.display import LogprobsView

__all__ = [
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatMessage",
    "Choice",
    "ChunkChoice",
    "Delta",
    "FinishReason",
    "FunctionCall",
    "FunctionCallDelta",
    "LogprobsContent",
    "PromptLogprob",
    "PromptTokensDetails",
    "TokenLogprob",
    "ToolCall",
    "ToolCallDelta",
    "TopLogprob",
    "Usage",
    "new_tool_call_id",
]

FinishReason = Literal["stop", "length", "tool_calls", "abort"]

LOWEST_LOGPROB = -9999.0  # JSON has no -inf; masked tokens have this logprob instead


def _clamp(value: float) -> float:
    return value if value >= LOWEST_LOGPROB else LOWEST_LOGPROB


Logprob = Annotated[float, AfterValidator(_clamp)]
TokenIdKey = Annotated[str, BeforeValidator(lambda key: str(key) if isinstance(key, int) else key)]


def new_tool_call_id() -> str:
    """A fresh id for a tool call, ``chatcmpl-tool-<32 hex digits>``."""
    return f"chatcmpl-tool-{uuid.uuid4().hex}"


class _Reply(BaseModel):
    always_present: ClassVar[tuple[str, ...]] = ()

    def model_post_init(self, context: Any, /) -> None:
        self.__pydantic_fields_set__.update(self.always_present)

    def to_dict(self) -> dict[str, Any]:
        """The wire format as plain dicts and lists."""
        return self.model_dump(exclude_unset=True)

    def to_json(self) -> str:
        """The wire format as one line of JSON."""
        return self.model_dump_json(exclude_unset=True)


# --- parts shared by completions and chunks ---------------------------------------------------------------------------


class TopLogprob(_Reply):
    """One alternative at a position. ``logprob`` is a natural logarithm, ``bytes`` the token's UTF-8 bytes."""

    always_present: ClassVar[tuple[str, ...]] = ("bytes",)
    token: str
    logprob: Logprob
    bytes: list[int] | None = None


class TokenLogprob(TopLogprob):
    """A generated token, and the likeliest alternatives at its position."""

    always_present: ClassVar[tuple[str, ...]] = ("bytes", "top_logprobs")
    top_logprobs: list[TopLogprob] = []


class LogprobsContent(_Reply):
    """One entry for each generated token, the one that ended the answer included."""

    always_present: ClassVar[tuple[str, ...]] = ("content",)
    content: list[TokenLogprob] = []


class PromptLogprob(_Reply):
    """One token at a prompt position; ``rank`` is 1 for the likeliest."""

    always_present: ClassVar[tuple[str, ...]] = ("rank", "decoded_token")
    logprob: Logprob
    rank: int | None = None
    decoded_token: str | None = None


PromptLogprobs = list[dict[TokenIdKey, PromptLogprob] | None]


class PromptTokensDetails(_Reply):
    """How many prompt tokens came from a cache."""

    always_present: ClassVar[tuple[str, ...]] = ("cached_tokens",)
    cached_tokens: int | None = None


class Usage(_Reply):
    """Token counts. Completion tokens are summed over all choices, each with the token that ended it."""

    always_present: ClassVar[tuple[str, ...]] = (
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "prompt_tokens_details",
    )
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    prompt_tokens_details: PromptTokensDetails | None = None


# --- the whole answer -------------------------------------------------------------------------------------------------


class FunctionCall(_Reply):
    """A function's name, and its arguments as a JSON string."""

    name: str
    arguments: str


class ToolCall(_Reply):
    """A call the model asks for."""

    always_present: ClassVar[tuple[str, ...]] = ("id", "type")
    id: str = Field(default_factory=new_tool_call_id)
    type: Literal["function"] = "function"
    function: FunctionCall


class ChatMessage(_Reply):
    """The message the model answered with. ``reasoning_content`` is there only when reasoning was split off."""

    always_present: ClassVar[tuple[str, ...]] = ("role", "content", "tool_calls")
    role: str = "assistant"
    content: str | None = None
    tool_calls: list[ToolCall] = []
    reasoning_content: str | None = None


class Choice(_Reply):
    """One of ``n`` answers. ``stop_reason`` is the stop string or stop token id that ended it, null for EOS."""

    always_present: ClassVar[tuple[str, ...]] = ("logprobs", "finish_reason", "stop_reason")
    index: int
    message: ChatMessage
    logprobs: LogprobsContent | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatCompletion(_Reply):
    """The answer to a request that does not stream. ``created`` is in seconds since 1970."""

    always_present: ClassVar[tuple[str, ...]] = ("object", "usage", "prompt_logprobs")
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None

    @property
    def text(self) -> str:
        """The first choice's content, "" if it has none."""
        return self.choices[0].message.content or ""

    def show_logprobs(self) -> LogprobsView:
        """The tokens of each choice, coloured by probability in a notebook; ``print`` shows them as a table.

        Raises:
            RequestError: the answer has no log-probabilities, as the request did not ask for ``logprobs``.
        """
        from chatplan.display import LogprobsView

        return LogprobsView.of(self)

    def _repr_html_(self) -> str:
        from chatplan.display.view import completion_html

        return completion_html(self)


# --- the streamed answer ----------------------------------------------------------------------------------------------


class FunctionCallDelta(_Reply):
    """A piece of a function call: the name once, the arguments bit by bit."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(_Reply):
    """A piece of the tool call number ``index``; ``id`` and ``type`` come with its first piece."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionCallDelta | None = None


class Delta(_Reply):
    """What a chunk adds to a choice's message."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChunkChoice(_Reply):
    """What a chunk adds to one choice. ``finish_reason`` is null until the choice's last chunk."""

    always_present: ClassVar[tuple[str, ...]] = ("delta", "logprobs", "finish_reason")
    index: int
    delta: Delta = Field(default_factory=Delta)
    logprobs: LogprobsContent | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    token_ids: list[int] | None = None


class ChatCompletionChunk(_Reply):
    """One event of a stream. The usage chunk has no choices."""

    always_present: ClassVar[tuple[str, ...]] = ("object", "choices")
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice] = []
    usage: Usage | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None
