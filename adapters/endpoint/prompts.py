"""A chat whose prompt is one text, which goes to the model without a chat template, and comes back without a format."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from chatplan.chat import Chat
from chatplan.hookspecs import hookimpl
from chatplan.manager import Plugins
from chatplan.model import ModelInfo
from chatplan.plan import Prompt
from chatplan.request import ChatCompletionRequest

if TYPE_CHECKING:
    from chatplan.engine import Runner

__all__ = ["prompt_chat"]


class RawPrompt:
    """A plugin: the one message's text is the prompt. Plans run on an engine that is there already."""

    name = "raw_prompt"

    def __init__(self, engine: Runner) -> None:
        self._engine = engine

    @hookimpl(tryfirst=True)
    def engine(self) -> Runner:
        return self._engine

    @hookimpl(tryfirst=True)
    def render_prompt(self, request: ChatCompletionRequest, model: ModelInfo) -> Prompt:
        text = str(request.messages[0].content)
        ids = model.tokenizer.encode(text, add_special_tokens=request.add_special_tokens)
        kept = request.truncate_prompt_tokens
        return Prompt(tuple(ids[-kept:] if kept else ids), text)


class _PlainPlugins(Plugins):
    """What follows a raw prompt is plain text, also from a model whose chats have reasoning and calls."""

    def introduce(self, model: ModelInfo) -> ModelInfo:
        return model


def prompt_chat(chat: Chat, plugins: Collection[Any], disable: Collection[str]) -> Chat:
    """A chat for raw prompts, on the model and the engine of ``chat``, with the same plugins."""
    mine = _PlainPlugins([*plugins, RawPrompt(chat.engine)], disable)
    limit = chat.model.settings.max_logprobs
    # The drawn token is one more alternative, beside as many as may be asked for.
    settings = replace(chat.model.settings, max_logprobs=limit if limit < 0 else limit + 1)
    return Chat(replace(chat.model, answer_format=None, settings=settings), plugins=mine)
