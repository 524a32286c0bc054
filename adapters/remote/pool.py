"""The servers of one model, and which of them is asked next."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from chatplan.adapters.remote.server import Server

__all__ = ["Pool"]


class Pool:
    """Servers to choose from."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.servers: list[Server] = list(servers)
        self._turn = 0

    def choose(self, tried: Collection[Server]) -> Server:
        """The least busy server that does not rest; in turn, where several are. Not one of ``tried``, unless all are.

        One that rests is taken when no other is left.
        """
        self._turn += 1
        at = self._turn % len(self.servers)
        order = [*self.servers[at:], *self.servers[:at]]
        left = [server for server in order if server not in tried] or order
        now = time.monotonic()
        return min(left, key=lambda server: (max(0.0, server.rests_until - now), server.running))
