"""Messages from rank 0 to the other ranks of a group of processes."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed

__all__ = ["Channel"]

# Between two requests there may be days; a rank that has died closes its connections, which ends the wait.
_FOREVER = timedelta(days=3650)


class Channel:
    """A group of its own on the CPU, so that waiting for a message is no collective of the model that could time out.

    All ranks make it at the same point of their programs. What is sent is pickled: the processes trust each other.
    After an error it is of no more use.
    """

    def __init__(self) -> None:
        self.group: Any = distributed.new_group(backend="gloo", timeout=_FOREVER)

    def send(self, message: object, seconds: float) -> None:
        """To all other ranks; on rank 0 only.

        Raises:
            RuntimeError: a rank has gone, or does not take it within ``seconds``.
        """
        data = torch.frombuffer(bytearray(pickle.dumps(message)), dtype=torch.uint8)
        self._broadcast(torch.tensor([len(data)]), seconds)
        self._broadcast(data, seconds)

    def receive(self, seconds: float | None = None) -> Any:
        """The next message; on the other ranks only.

        Raises:
            RuntimeError: rank 0 has gone, or nothing came for ``seconds``.
        """
        length = torch.zeros(1, dtype=torch.int64)
        self._broadcast(length, seconds)
        data = torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(data, seconds)
        return pickle.loads(data.numpy().tobytes())

    def meet(self, seconds: float) -> None:
        """Wait until all ranks are here.

        Raises:
            RuntimeError: some are not, after ``seconds``.
        """
        distributed.monitored_barrier(self.group, timedelta(seconds=seconds), wait_all_ranks=True)

    def _broadcast(self, data: torch.Tensor, seconds: float | None) -> None:
        under_way: Any = distributed.broadcast(data, src=0, group=self.group, async_op=True)
        under_way.wait() if seconds is None else under_way.wait(timedelta(seconds=seconds))
