"""The built-in engines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from chatplan.engine import Engine, Runner
from chatplan.errors import EngineError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo

log: logging.Logger = logging.getLogger("chatplan")


@hookimpl(trylast=True)
def engine(model: ModelInfo, options: Mapping[str, Any]) -> Runner | None:
    """``generate``, which runs every model, and ``continuous``, which takes requests at any step.

    ``auto`` comes to ``generate``; to ``continuous`` where the option ``serving`` says that the model is for requests
    alone, as continuous batching changes the model it runs, and that engine can run it. A model that is on several
    ranks runs on ``tensor_parallel``, which is ``generate`` for such models.
    """
    wanted = options.get("engine", "auto")
    if model.module is not None and _is_divided(model):
        return _tensor_parallel(model, wanted)
    if wanted == "continuous" or (wanted == "auto" and options.get("serving")):
        found = _continuous(model, options)
        if found is not None:
            return found
    if wanted not in ("auto", "generate"):
        return None
    from chatplan.engine.generate import GenerateEngine

    return GenerateEngine(model)


def _is_divided(model: ModelInfo) -> bool:
    """Whether other ranks have parts of the model, and repeat what it does here."""
    from chatplan.engine.tensor_parallel import LEADERS

    return model.module in LEADERS


def _tensor_parallel(model: ModelInfo, wanted: str) -> Engine | None:
    from chatplan.engine.tensor_parallel import TensorParallelEngine

    if wanted == "continuous":
        raise EngineError("a model on several ranks runs on generate, one batch after another")
    return TensorParallelEngine(model) if wanted in ("auto", "generate", TensorParallelEngine.name) else None


def _continuous(model: ModelInfo, options: Mapping[str, Any]) -> Engine | None:
    try:
        return _new_continuous(model, bool(options.get("serving")))
    except EngineError as error:
        if options.get("engine") == "continuous":
            raise
        log.warning("running on generate, one batch after another: %s", error)
        return None


def _new_continuous(model: ModelInfo, serving: bool) -> Engine:
    try:
        from chatplan.engine.continuous import ContinuousEngine
    except ImportError as error:  # older transformers have no such thing, or another one
        raise EngineError(f"continuous batching needs transformers 5.23 or newer: {error}") from error
    return ContinuousEngine(model, serving)
