"""The processes that hold one model together: those that torchrun started, or followers started from here."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch.distributed.distributed_c10d import _set_pg_timeout

from chatplan.engine.relay import GRACE
from chatplan.errors import EngineError

__all__ = ["SECONDS", "Followers", "connect", "launched", "leave", "open_store"]

SECONDS = 300.0
"""The longest that a rank waits for another one inside a step."""

_JOINING = timedelta(minutes=2)  # in which all must have come; one that failed never does
_LOADING = timedelta(hours=2)  # as transformers has it: ranks may read at very different speeds


def launched() -> bool:
    """Whether torchrun, or what does the same, started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


def connect(size: int, number: int = 0, store: Any = None) -> None:
    """Make this process one of ``size`` ranks, unless it is; without a ``store`` as torchrun's variables say.

    Raises:
        EngineError: torchrun started another number of processes, or there are too few devices.
    """
    if store is None:
        _check_launched(size)
    here = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    if device.type != "cpu":
        check_devices(here + 1)
        torch.accelerator.set_device_index(here)
        device = torch.device(device.type, here)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // size))  # the ranks share the cores
    if distributed.is_initialized():
        return
    backend = distributed.get_default_backend_for_device(device)
    arguments: dict[str, Any] = {} if store is None else {"rank": number, "world_size": size, "store": store}
    if backend == "nccl":
        arguments["device_id"] = device
    distributed.init_process_group(backend, timeout=_JOINING, **arguments)
    _set_pg_timeout(_LOADING, distributed.group.WORLD)


def check_devices(count: int) -> None:
    """Raises :class:`EngineError` if there are accelerators, but fewer than ``count``."""
    if torch.accelerator.current_accelerator() is not None and torch.accelerator.device_count() < count:
        there = torch.accelerator.device_count()
        raise EngineError(f"tensor parallel needs a device for each rank of a machine: {count}, and there are {there}")


def open_store(port: int | None = None) -> Any:
    """What ranks that are started from here find each other by: a new one, or that on ``port``."""
    torch_distributed: Any = distributed
    return torch_distributed.TCPStore("127.0.0.1", port or 0, is_master=port is None, wait_for_workers=False)


def _check_launched(size: int) -> None:
    started = distributed.get_world_size() if distributed.is_initialized() else int(os.environ["WORLD_SIZE"])
    if started != size:
        raise EngineError(f"tensor_parallel_size is {size}, and {started} processes were started")


def leave(well: bool = True) -> None:
    """This process is no rank any more."""
    if distributed.is_initialized():
        with suppress(RuntimeError):  # others have gone
            distributed.destroy_process_group()


class Followers:
    """The ranks above 0, as processes of this one; they end with it.

    Args:
        size: the number of ranks.
        job: what :mod:`chatplan.adapters.parallel.follower` is told.

    Raises:
        EngineError: one ended before it was ready; what it wrote is on standard error.
    """

    def __init__(self, size: int, job: Mapping[str, Any]) -> None:
        self._ending = False
        check_devices(size)
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody else's to reach
        store = open_store()
        self._store = store
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        jobs = {number: pickle.dumps({**job, "port": store.port, "number": number}) for number in range(1, size)}
        try:
            for number, pickled in jobs.items():
                self._processes[number] = _start(number, pickled)
            self.wait("started")
            connect(size, 0, store)
        except BaseException:
            self.end(well=False)
            raise

    def wait(self, stage: str) -> None:
        """Until all have come to a stage, which they write down in the store; loading takes what it takes."""
        while not self._store.check([f"chatplan/{stage}/{number}" for number in self._processes]):
            for number, process in self._processes.items():
                if process.poll() is not None:
                    raise EngineError(f"rank {number} ended with code {process.returncode} before it had {stage}")
            time.sleep(0.02)

    def watch(self, ended: Callable[[str], None]) -> None:
        """Tell ``ended`` when one of them ends that should not."""

        def wait(number: int, process: subprocess.Popen[bytes]) -> None:
            code = process.wait()
            if not self._ending:
                ended(f"rank {number} has ended with code {code}")

        for number, process in self._processes.items():
            threading.Thread(target=wait, args=(number, process), name="chatplan-follower", daemon=True).start()

    def end(self, well: bool) -> None:
        """Wait for those that were let go, where all is ``well``, and kill what has not ended; then leave the group."""
        self._ending = True
        until = time.monotonic() + (GRACE if well else 0)
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
            process.kill()
            process.wait()
        leave()


def _start(number: int, job: bytes) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C is for rank 0, which lets the others go when it has ended.
    process = subprocess.Popen(
        [sys.executable, "-m", "chatplan.adapters.parallel.follower"],
        stdin=subprocess.PIPE,
        env={**os.environ, "LOCAL_RANK": str(number)},
        start_new_session=True,
    )
    assert process.stdin is not None
    with process.stdin as stdin:
        stdin.write(job)
    return process
