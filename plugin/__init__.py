"""chatplan: every field of vLLM's chat request, with its exact meaning, on any Transformers causal LM.

    from chatplan import pipeline
    chat = pipeline("chat", model="HuggingFaceTB/SmolLM2-135M-Instruct")
    print(chat([{"role": "user", "content": "Hi"}], temperature=0).text)

Importing this package is light: torch and transformers load when something needs them.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from wrapt import register_post_import_hook

if TYPE_CHECKING:
    from chatplan.adapters.connect import connect
    from chatplan.adapters.pipeline import ChatPipeline, pipeline
    from chatplan.chat import Chat
    from chatplan.compiler import compile_plan
    from chatplan.engine import Engine, Runner
    from chatplan.errors import (
        AuthenticationError,
        ChatplanError,
        ContextLengthError,
        DeadlineError,
        EngineError,
        ModelNotFoundError,
        OverloadedError,
        PermissionDeniedError,
        PluginConflictError,
        PluginError,
        RateLimitError,
        RequestError,
        TooLargeError,
        UnsupportedFieldError,
    )
    from chatplan.explaining import explain
    from chatplan.families import AnswerFormat
    from chatplan.folding import fold
    from chatplan.guided import CannotEnforce, Constraint, Grammar, GrammarBackend, Matcher
    from chatplan.hookspecs import hookimpl
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo
    from chatplan.output import OutputStage, StageState, Step
    from chatplan.plan import GenerationPlan, OutputOrder, Prompt, Stage, StopTokens
    from chatplan.principal import Principal
    from chatplan.processor import Processor
    from chatplan.request import ChatCompletionRequest
    from chatplan.response import ChatCompletion, ChatCompletionChunk
    from chatplan.row import Row
    from chatplan.settings import Settings
    from chatplan.stream import Stream

__version__ = "0.1.0"

_HOMES = {
    "chatplan.adapters.connect": ("connect",),
    "chatplan.adapters.pipeline": ("ChatPipeline", "pipeline"),
    "chatplan.chat": ("Chat",),
    "chatplan.compiler": ("compile_plan",),
    "chatplan.engine": ("Engine", "Runner"),
    "chatplan.errors": (
        "AuthenticationError",
        "ChatplanError",
        "ContextLengthError",
        "DeadlineError",
        "EngineError",
        "ModelNotFoundError",
        "OverloadedError",
        "PermissionDeniedError",
        "PluginConflictError",
        "PluginError",
        "RateLimitError",
        "RequestError",
        "TooLargeError",
        "UnsupportedFieldError",
    ),
    "chatplan.explaining": ("explain",),
    "chatplan.families": ("AnswerFormat",),
    "chatplan.folding": ("fold",),
    "chatplan.guided": ("CannotEnforce", "Constraint", "Grammar", "GrammarBackend", "Matcher"),
    "chatplan.hookspecs": ("hookimpl",),
    "chatplan.manager": ("Plugins",),
    "chatplan.model": ("ModelInfo",),
    "chatplan.output": ("OutputStage", "StageState", "Step"),
    "chatplan.plan": ("GenerationPlan", "OutputOrder", "Prompt", "Stage", "StopTokens"),
    "chatplan.principal": ("Principal",),
    "chatplan.processor": ("Processor",),
    "chatplan.request": ("ChatCompletionRequest",),
    "chatplan.response": ("ChatCompletion", "ChatCompletionChunk"),
    "chatplan.row": ("Row",),
    "chatplan.settings": ("Settings",),
    "chatplan.stream": ("Stream",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022  grouped by who needs it
    # to chat
    "pipeline",
    "connect",
    "ChatPipeline",
    "Chat",
    "ChatCompletionRequest",
    "ChatCompletion",
    "ChatCompletionChunk",
    "Stream",
    "Settings",
    "fold",
    # to look inside
    "explain",
    "compile_plan",
    "GenerationPlan",
    # to write a plugin
    "hookimpl",
    "Plugins",
    "ModelInfo",
    "Prompt",
    "Principal",
    "Stage",
    "Processor",
    "Row",
    "Runner",
    "StopTokens",
    "OutputOrder",
    "OutputStage",
    "StageState",
    "Step",
    "Engine",
    "Constraint",
    "GrammarBackend",
    "Grammar",
    "Matcher",
    "CannotEnforce",
    "AnswerFormat",
    # errors
    "ChatplanError",
    "RequestError",
    "UnsupportedFieldError",
    "ContextLengthError",
    "ModelNotFoundError",
    "PluginError",
    "PluginConflictError",
    "EngineError",
    "AuthenticationError",
    "PermissionDeniedError",
    "TooLargeError",
    "RateLimitError",
    "OverloadedError",
    "DeadlineError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'chatplan' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_task(_pipelines: object) -> None:
    # When the adapter itself is what loads transformers.pipelines, it is half made here, and registers at its end.
    if "chatplan.adapters.pipeline" not in sys.modules:
        importlib.import_module("chatplan.adapters.pipeline")


# `transformers.pipeline("chat")` must work after `import chatplan`, which itself must not import transformers.
register_post_import_hook(_register_task, "transformers.pipelines")
