"""The built-in engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.engine import Engine
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo


@hookimpl(trylast=True)
def engine(model: ModelInfo, options: Mapping[str, Any]) -> Engine | None:
    """``generate``, which runs every model; also what ``auto`` comes to when no other plugin offers an engine."""
    if options.get("engine", "auto") not in ("auto", "generate"):
        return None
    from chatplan.engine.generate import GenerateEngine

    return GenerateEngine(model)
