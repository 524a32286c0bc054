"""What ``chatplan doctor`` finds on this machine: versions, devices, memory, and what is installed."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

__all__ = ["devices", "extras", "memory", "versions"]


def versions() -> dict[str, str | None]:
    """Of Python, chatplan and what it stands on; ``None`` for what is not installed."""
    import chatplan

    needed = sorted({item.name for item in _requirements() if item.marker is None} | {"safetensors"})
    known = {"chatplan": chatplan.__version__, "python": platform.python_version()}
    return {**known, **{name: _version(name) for name in needed}}


def devices() -> list[dict[str, Any]]:
    """Accelerators, then the processor. Memory in bytes, as far as torch knows it.

    Raises:
        ImportError: torch does not load.
    """
    import torch

    found: list[dict[str, Any]] = []
    for at in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(at)
        found.append({"device": f"cuda:{at}", "name": torch.cuda.get_device_name(at), "memory": total, "free": free})
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": "Metal", "memory": torch.mps.recommended_max_memory(), "free": None})
    cores = f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads of torch"
    return [*found, {"device": "cpu", "name": cores, **memory()}]


def memory() -> dict[str, int]:
    """Of the machine, in bytes: ``memory`` is all of it, ``free`` what can be had without swapping."""
    import psutil  # type: ignore[import-untyped]  # accelerate brings it

    state = psutil.virtual_memory()
    return {"memory": int(state.total), "free": int(state.available)}


def extras() -> dict[str, list[str]]:
    """What is missing of each optional extra; nothing where all of it is installed."""
    from importlib.metadata import metadata

    names = metadata("chatplan").get_all("Provides-Extra") or []
    return {name: sorted(set(_missing(name))) for name in names}


def _missing(extra: str) -> Iterator[str]:
    for item in _requirements():
        if item.marker is None or not item.marker.evaluate({"extra": extra}):
            continue
        if item.name == "chatplan":  # an extra of extras
            for name in item.extras:
                yield from _missing(name)
            continue
        found = _version(item.name)
        if found is None:
            yield str(item.name)
        elif not item.specifier.contains(found, prereleases=True):
            yield f"{item.name}{item.specifier} (is {found})"


def _requirements() -> list[Any]:
    from packaging.requirements import Requirement

    return [Requirement(text) for text in requires("chatplan") or []]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
