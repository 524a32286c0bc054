"""The plugin of the command line tool ``llm``: ``llm -m chatplan/MODEL "prompt"`` runs the model in this process.

Models in the hub's cache that have a chat template are there by themselves; others after ``llm chatplan add MODEL``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import llm

from chatplan.adapters.llm_models.commands import chatplan
from chatplan.adapters.llm_models.known import known_models
from chatplan.adapters.llm_models.model import AsyncChatModel, ChatModel

__all__ = ["AsyncChatModel", "ChatModel", "register_commands", "register_models"]


@llm.hookimpl
def register_models(register: Callable[..., None]) -> None:
    """Each known model; no weights are loaded until it is asked."""
    for name in known_models():
        model = ChatModel(name)
        register(model, AsyncChatModel(model), aliases=model.aliases)


@llm.hookimpl
def register_commands(cli: click.Group) -> None:
    """``llm chatplan``."""
    group: Any = chatplan
    cli.add_command(group)
