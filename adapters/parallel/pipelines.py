"""``pipeline("chat", model, tensor_parallel_size=2)``."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from chatplan.adapters.parallel.loading import tensor_parallel
from chatplan.adapters.parallel.processes import SECONDS
from chatplan.errors import EngineError

__all__ = ["divided"]

_SECONDS = "tensor_parallel_seconds"
_LOADING = ("dtype", "torch_dtype", "revision", "token", "trust_remote_code")


def divided(model: Any, size: int, arguments: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Rank 0's shard of a model, and what is left of a pipeline's arguments to make the pipeline of it.

    Raises:
        EngineError: the model is loaded already, or placed in another way too.
    """
    if size < 1:
        raise EngineError(f"tensor_parallel_size must be at least 1, got {size}")
    if not isinstance(model, (str, PathLike)):
        raise EngineError("tensor_parallel_size is for a model that is yet to be loaded: pass its name or folder")
    if arguments.get("device_map") is not None or arguments.get("device") is not None:
        raise EngineError("tensor_parallel_size places the model: leave out device and device_map")
    loading = {name: arguments[name] for name in _LOADING if arguments.get(name) is not None}
    seconds = arguments.get(_SECONDS, SECONDS)
    part = tensor_parallel(str(model), size, seconds=seconds, **loading, **(arguments.get("model_kwargs") or {}))
    done = ("model_kwargs", "dtype", "torch_dtype", _SECONDS)
    rest = {name: value for name, value in arguments.items() if name not in done}
    return part, {"tokenizer": str(model), **rest}
