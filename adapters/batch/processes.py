"""The processes that share a job, as accelerate's launchers and torchrun start them."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chatplan.errors import RequestError

if TYPE_CHECKING:
    import torch
    from accelerate import PartialState  # type: ignore[import-untyped]

__all__ = ["device_of", "is_first", "leave_with_launcher", "together"]


def is_first() -> bool:
    """Whether this process speaks for all; known before they have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def together() -> Iterator[PartialState]:
    """What this process knows of the others.

    Raises:
        RequestError: the launcher started several, which do not find each other.
    """
    import torch
    from accelerate import PartialState

    # Without a GPU, accelerate takes launched processes for single ones unless it is told.
    accelerated = torch.cuda.is_available() or torch.backends.mps.is_available() or _has_xpu()
    state = PartialState(cpu=not accelerated)
    launched = int(os.environ.get("WORLD_SIZE") or 1)
    if launched != state.num_processes:
        raise RequestError(f"the launcher started {launched} processes, and accelerate knows {state.num_processes}")
    try:
        yield state
    finally:
        if state.num_processes > 1:
            state.destroy_process_group()


def device_of(state: PartialState) -> torch.device:
    """The device of this process; accelerate numbers CPUs, which older transformers takes for GPUs."""
    import torch

    return torch.device("cpu") if state.device is None or state.device.type == "cpu" else state.device


def leave_with_launcher() -> None:
    """A launcher that is killed leaves its workers running; this one then ends at once, which loses nothing."""
    if "TORCHELASTIC_RUN_ID" in os.environ or _accelerate_is_parent():
        threading.Thread(target=_watch, args=(os.getppid(),), name="chatplan-launcher", daemon=True).start()


def _accelerate_is_parent() -> bool:
    """Its variables may have been exported by somebody, too."""
    import psutil  # type: ignore[import-untyped]  # accelerate brings it

    try:
        return any("accelerate" in part for part in psutil.Process(os.getppid()).cmdline())
    except psutil.Error:
        return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    print("the launcher has gone, and this process leaves", file=sys.stderr, flush=True)
    os._exit(1)


def _has_xpu() -> bool:
    import torch

    return hasattr(torch, "xpu") and torch.xpu.is_available()
