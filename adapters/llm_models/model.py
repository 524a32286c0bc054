"""A model as ``llm`` knows it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llm
from llm.parts import StreamEvent

from chatplan.adapters.llm_models.messages import as_messages, as_tools

if TYPE_CHECKING:
    from chatplan.chat import Chat
    from chatplan.response import ChatCompletionChunk, FunctionCall

__all__ = ["AsyncChatModel", "ChatModel"]


class _Shared:
    """What the two kinds of models have in common."""

    can_stream = True
    supports_schema = True
    supports_tools = True

    def __init__(self, name: str) -> None:
        self.name: str = name
        self.model_id: str = f"chatplan/{name}"

    @property
    def aliases(self) -> list[str]:
        """A folder is also called by its last part."""
        path = Path(self.name)
        return [f"chatplan/{path.name}"] if path.is_absolute() else []

    @cached_property
    def chat(self) -> Chat:
        """The chat, loaded when the first prompt comes."""
        from transformers.utils import logging

        from chatplan.adapters.pipeline import pipeline
        from chatplan.adapters.weights import dtype_argument, likely_device

        logging.disable_progress_bar()
        where: dict[str, Any] = {"device": likely_device(), **dtype_argument("auto")}
        return pipeline("chat", self.name, **where).chat

    @cached_property
    def Options(self) -> type[llm.Options]:
        """The fields of the request, also those of installed plugins; made when somebody looks."""
        from chatplan.adapters.llm_models.options import options_of
        from chatplan.manager import Plugins

        return options_of(Plugins().request_type)

    def request(self, prompt: llm.Prompt) -> dict[str, Any]:
        """The request of a prompt: its conversation, schema, tools and options."""
        functions = [tool for tool in prompt.tools if isinstance(tool, llm.Tool)]
        given = {name: value for name, value in prompt.options if value is not None}
        schema = {"guided_json": prompt.schema} if prompt.schema else {}
        tools = {"tools": as_tools(functions)} if functions else {}
        return {"messages": as_messages(prompt.messages), **schema, **tools, **given}


class ChatModel(_Shared, llm.Model):  # type: ignore[misc]  # Options there is a class, made at once
    """A model of transformers that chatplan runs.

    Args:
        name: a name on the hub, or a folder.
    """

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: llm.Conversation | None
    ) -> Iterator[str | StreamEvent]:
        """The answer's first choice, piece by piece; all of the answer is in ``response.response_json``."""
        chunks: list[ChatCompletionChunk] = []
        with self.chat.stream(self.request(prompt), stream_options={"include_usage": True}) as running:
            for chunk in running:
                chunks.append(chunk)
                yield from _events(chunk)
        _conclude(response, chunks)


class AsyncChatModel(_Shared, llm.AsyncModel):  # type: ignore[misc]
    """The same model for event loops; it shares the weights of ``model``."""

    def __init__(self, model: ChatModel) -> None:
        super().__init__(model.name)
        self._model = model

    async def execute(
        self,
        prompt: llm.Prompt,
        stream: bool,
        response: llm.AsyncResponse,
        conversation: llm.AsyncConversation | None,
    ) -> AsyncGenerator[str | StreamEvent, None]:
        """As :meth:`ChatModel.execute`."""
        chunks: list[ChatCompletionChunk] = []
        async with self._model.chat.stream(self.request(prompt), stream_options={"include_usage": True}) as running:
            async for chunk in running:
                chunks.append(chunk)
                for event in _events(chunk):
                    yield event
        _conclude(response, chunks)


def _events(chunk: ChatCompletionChunk) -> Iterator[StreamEvent]:
    for choice in chunk.choices:
        if choice.index == 0 and choice.delta.reasoning_content:
            yield StreamEvent(type="reasoning", chunk=choice.delta.reasoning_content)
        if choice.index == 0 and choice.delta.content:
            yield StreamEvent(type="text", chunk=choice.delta.content)


def _conclude(response: llm.Response | llm.AsyncResponse, chunks: list[ChatCompletionChunk]) -> None:
    from chatplan.folding import fold

    answer = fold(chunks)
    response.response_json = answer.to_dict()
    if answer.usage is not None:
        response.set_usage(input=answer.usage.prompt_tokens, output=answer.usage.completion_tokens)
    for call in answer.choices[0].message.tool_calls:
        response.add_tool_call(llm.ToolCall(call.function.name, _arguments(call.function), call.id))


def _arguments(call: FunctionCall) -> dict[str, Any]:
    try:
        arguments: dict[str, Any] = json.loads(call.arguments or "{}")
    except ValueError:
        wanted = "the answer ended within it, which a higher max_tokens may help"
        raise llm.ModelError(f"the call of {call.name} is not whole: {wanted}") from None
    return arguments
