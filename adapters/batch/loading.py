"""From options to a chat."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from chatplan.adapters.batch.options import Options
from chatplan.adapters.weights import dtype_argument
from chatplan.chat import Chat
from chatplan.errors import RequestError
from chatplan.manager import Plugins

if TYPE_CHECKING:
    import torch

__all__ = ["load_chat"]


def load_chat(options: Options, device: torch.device) -> Chat:
    """Load the model, onto ``device`` unless there is a device map.

    Raises:
        RequestError: there is no such model, or a default is not valid.
        PluginError: there is no such plugin, or no such engine.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    from chatplan.model import ModelInfo

    if not sys.stderr.isatty():
        disable_progress_bar()
    plugins = Plugins(options.plugins, options.disable)
    place = device if options.device_map is None else _device_map(options.device_map)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            options.model, device_map=place, **dtype_argument(options.dtype)
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(options.model)
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot be loaded: {error}", param="--model") from error
    info = ModelInfo.of(model, tokenizer, options.settings, options.served_model_name or options.model)
    # `auto` stays on `generate`, which batches alike at each try; the model is this program's alone, so any will do.
    serving = {"serving": options.engine != "auto"}
    return Chat(info, plugins=plugins, engine=options.engine, defaults=options.defaults, options=serving)


def _device_map(given: str) -> Any:
    """A strategy's name, or an object of modules and devices."""
    try:
        return json.loads(given) if given.startswith("{") else given
    except ValueError as error:
        raise RequestError(f"is not JSON: {error}", param="--device-map") from None
