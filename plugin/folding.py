"""A completion is the fold of its stream.

There is one code path for both kinds of answer: engines and output stages make chunks, and a caller who does not stream
gets what :func:`fold` makes of them. Pure, and linear in the size of the stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from chatplan.errors import EngineError
from chatplan.response import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatMessage,
    Choice,
    ChunkChoice,
    Delta,
    FinishReason,
    FunctionCall,
    LogprobsContent,
    PromptLogprobs,
    TokenLogprob,
    ToolCall,
    ToolCallDelta,
    Usage,
)

__all__ = ["fold"]

_T = TypeVar("_T")


def fold(chunks: Iterable[ChatCompletionChunk]) -> ChatCompletion:
    """Put a whole stream together, choices sorted by index.

    ``usage`` is taken from the usage chunk (the one without choices) and is None if there was none.
    Raises :class:`EngineError` for a stream without any chunk.
    """
    first: ChatCompletionChunk | None = None
    answer = _Answer()
    for chunk in chunks:
        first = first or chunk
        answer.add(chunk)
    if first is None:
        raise EngineError("the stream ended before its first chunk")
    return answer.completion(first)


@dataclass
class _Answer:
    choices: dict[int, _ChoiceParts] = field(default_factory=dict)
    usage: Usage | None = None
    prompt_logprobs: PromptLogprobs | None = None
    prompt_token_ids: list[int] | None = None

    def add(self, chunk: ChatCompletionChunk) -> None:
        for choice in chunk.choices:
            if choice.index not in self.choices:
                self.choices[choice.index] = _ChoiceParts()
            self.choices[choice.index].add(choice)
        # Usage on a chunk with choices is a running count of that choice, not the sum.
        if chunk.usage is not None and not chunk.choices:
            self.usage = chunk.usage
        if chunk.prompt_logprobs is not None:
            self.prompt_logprobs = chunk.prompt_logprobs
        if chunk.prompt_token_ids is not None:
            self.prompt_token_ids = chunk.prompt_token_ids

    def completion(self, first: ChatCompletionChunk) -> ChatCompletion:
        result = ChatCompletion(
            id=first.id,
            created=first.created,
            model=first.model,
            choices=[parts.choice(index, first.id) for index, parts in sorted(self.choices.items())],
            usage=self.usage,
            prompt_logprobs=self.prompt_logprobs,
        )
        if self.prompt_token_ids is not None:
            result.prompt_token_ids = self.prompt_token_ids
        return result


@dataclass
class _ToolCallParts:
    id: str | None = None
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def add(self, delta: ToolCallDelta) -> None:
        self.id = self.id or delta.id
        if delta.function is not None:
            self.name = self.name or delta.function.name or ""
            self.arguments.append(delta.function.arguments or "")

    def call(self, fallback_id: str) -> ToolCall:
        function = FunctionCall(name=self.name, arguments="".join(self.arguments))
        return ToolCall(id=self.id or fallback_id, function=function)


@dataclass
class _ChoiceParts:
    role: str | None = None
    content: list[str] | None = None
    reasoning: list[str] | None = None
    tool_calls: dict[int, _ToolCallParts] = field(default_factory=dict)
    logprobs: list[TokenLogprob] | None = None
    token_ids: list[int] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None

    def add(self, piece: ChunkChoice) -> None:
        self._add_delta(piece.delta)
        if piece.logprobs is not None:
            self.logprobs = _extend(self.logprobs, piece.logprobs.content)
        if piece.token_ids is not None:
            self.token_ids = _extend(self.token_ids, piece.token_ids)
        if piece.finish_reason is not None:
            self.finish_reason = piece.finish_reason
        if piece.stop_reason is not None:
            self.stop_reason = piece.stop_reason

    def _add_delta(self, delta: Delta) -> None:
        self.role = self.role or delta.role
        if delta.content is not None:
            self.content = _extend(self.content, [delta.content])
        if delta.reasoning_content is not None:
            self.reasoning = _extend(self.reasoning, [delta.reasoning_content])
        for call in delta.tool_calls or ():
            self.tool_calls.setdefault(call.index, _ToolCallParts()).add(call)

    def choice(self, index: int, completion_id: str) -> Choice:
        result = Choice(
            index=index,
            message=self._message(f"{completion_id}-tool-{index}"),
            logprobs=None if self.logprobs is None else LogprobsContent(content=self.logprobs),
            finish_reason=self.finish_reason,
            stop_reason=self.stop_reason,
        )
        if self.token_ids is not None:
            result.token_ids = self.token_ids
        return result

    def _message(self, id_prefix: str) -> ChatMessage:
        calls = [parts.call(f"{id_prefix}-{number}") for number, parts in sorted(self.tool_calls.items())]
        content = None if self.content is None else "".join(self.content)
        # An answer that is nothing but calls has no content, though its stream began with an empty one.
        message = ChatMessage(
            role=self.role or "assistant", content=content or None if calls else content, tool_calls=calls
        )
        if self.reasoning is not None:
            message.reasoning_content = "".join(self.reasoning)
        return message


def _extend(items: list[_T] | None, more: list[_T]) -> list[_T]:
    # None means that nothing of the kind was ever sent, which is not the same as an empty list.
    if items is None:
        return list(more)
    items.extend(more)
    return items
