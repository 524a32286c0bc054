"""What ``chatplan doctor`` tries: each engine and grammar backend, and a checkpoint without its weights."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo

__all__ = ["check_backends", "check_engines", "check_model"]

_HI = [{"role": "user", "content": "Hi"}]


def check_engines(plugins: Plugins) -> dict[str, str | None]:
    """Why each engine cannot run here; ``None`` for those that can.

    Engines of this process run a model of random weights for two tokens. Of those elsewhere only what is needed to
    reach them is looked at.
    """
    from chatplan.capabilities import UNSUPPORTED

    tiny = _tiny_model()
    elsewhere: dict[str, Callable[[], object]] = {
        "tensor_parallel": _import("chatplan.adapters.parallel", "chatplan.engine.tensor_parallel"),
        "tgi": _import("chatplan.adapters.tgi"),
        "remote": _import("chatplan.adapters.remote"),
    }
    names = [*UNSUPPORTED, *(name for name in elsewhere if name not in UNSUPPORTED)]
    return {name: _why_not(elsewhere.get(name) or _run(name, tiny, plugins)) for name in names}


def check_backends(plugins: Plugins) -> dict[str, str | None]:
    """Why each plugin that offers a grammar backend cannot enforce a regular expression; ``None`` for those that do."""
    from chatplan.guided.constraint import Constraint
    from chatplan.standin import stand_in

    model = plugins.introduce(stand_in())
    offered = dict(plugins.ask("grammar_backend", model=model))
    enforcer = plugins.enforcer(model)
    digits = Constraint("regex", "[0-9]{4}", param="guided_regex")
    found: dict[str, str | None] = {}
    for plugin in (name for name in plugins.names if "grammar_backend" in plugins.hooks_of(name)):
        backend = offered.get(plugin)
        if backend is None:
            extra = plugin.replace("_", "-")
            found[plugin] = f"its library is not installed: pip install 'chatplan[{extra}]'"
        else:
            found[backend.name] = _why_not(partial(enforcer.compile, digits, backend.name))
    return found


def check_model(name: str, plugins: Plugins) -> dict[str, Any]:
    """What is known of a checkpoint without loading its weights, or under ``error`` why it cannot be used."""
    from chatplan.adapters.cli.loading import missing_folder
    from chatplan.answering import NEEDS_PARSER, can_parse
    from chatplan.compiler import compile_plan
    from chatplan.model import ModelInfo
    from chatplan.request import parse_request

    try:
        missing_folder(name)
        info = plugins.introduce(ModelInfo.without_weights(name))
        plan = compile_plan(parse_request({"messages": _HI}, plugins.request_type), info, plugins)
    except Exception as error:
        return {"model": name, "error": _line(error)}
    answers = info.answer_format
    return {
        "model": name,
        "architectures": list(getattr(info.config, "architectures", None) or []),
        "context_length": info.context_length,
        "vocab_size": info.vocab_size,
        "prompt_tokens_of_hi": len(plan.prompt.token_ids),
        "tool_format": None if answers is None else answers.name,
        "reasoning": answers is not None and answers.reasoning is not None,
        "parser": None if can_parse() else NEEDS_PARSER,
        "error": None,
    }


def _run(name: str, tiny: ModelInfo, plugins: Plugins) -> Callable[[], object]:
    from chatplan.chat import Chat

    def trial() -> None:
        chat = Chat(tiny, plugins=plugins, engine=name)
        try:
            chat.complete(_HI, max_tokens=2, ignore_eos=True, temperature=0)
        finally:
            chat.close()

    return trial


def _tiny_model() -> ModelInfo:
    from transformers import LlamaConfig, LlamaForCausalLM

    from chatplan.adapters.weights import likely_device
    from chatplan.model import ModelInfo
    from chatplan.standin import stand_in

    tokenizer: Any = stand_in().tokenizer
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
                         num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=256,
                         bos_token_id=None, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    model: Any = LlamaForCausalLM(config).eval()
    return ModelInfo.of(model.to(likely_device()), tokenizer, name="doctor")


def _import(*modules: str) -> Callable[[], object]:
    from importlib import import_module

    return lambda: [import_module(name) for name in modules]


def _why_not(trial: Callable[[], object]) -> str | None:
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # the reason is told here, in a line
    try:
        trial()
    except Exception as error:
        return _line(error)
    finally:
        logging.disable(before)
    return None


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
