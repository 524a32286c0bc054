"""From a model's repository to a chat."""

from __future__ import annotations

import os
from typing import Any

from chatplan.adapters.endpoint.settings import HandlerSettings
from chatplan.adapters.pipeline import pipeline
from chatplan.adapters.weights import dtype_argument
from chatplan.chat import Chat

__all__ = ["load"]


def load(model_dir: str, settings: HandlerSettings) -> Chat:
    """The chat of the checkpoint in ``model_dir``, on a GPU if there is one.

    Raises:
        OSError: there is no checkpoint.
    """
    made = pipeline(
        "chat",
        model=model_dir,
        plugins=settings.plugins,
        disable=settings.disable,
        engine=settings.engine,
        served_model_name=settings.served_model_name or os.environ.get("HF_MODEL_ID", ""),
        **_placement(settings),
        **settings.chat_settings,
        **settings.defaults,
    )
    return made.chat


def _placement(settings: HandlerSettings) -> dict[str, Any]:
    place = {"device": settings.device, "device_map": settings.device_map}
    return {**dtype_argument(settings.dtype), **{name: value for name, value in place.items() if value is not None}}
