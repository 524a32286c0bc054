"""Which replica: the one that has most likely seen how the prompt begins, unless too many requests are there."""

from __future__ import annotations

import json
import math
import random
from hashlib import blake2b
from typing import Any

from pydantic_core import from_json
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from chatplan.adapters.ray_serve.call import Call

__all__ = ["PrefixRouter", "prefix_of", "ranked"]

OVERLOAD = 1.25  # how much more than the mean a replica may have before the next one is taken


def prefix_of(body: bytes, length: int) -> str:
    """The first ``length`` characters of what the prompt will be made of; nothing if that cannot be seen."""
    try:
        data = from_json(body)
    except ValueError:
        return ""
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        return ""
    parts = [data.get("cache_salt"), data.get("tools"), *data["messages"]]
    text = ""
    for part in parts:
        if part is not None and len(text) < length:
            text += json.dumps(part, ensure_ascii=False)
    return text[:length]


def ranked(prefix: str, replicas: list[str]) -> list[int]:
    """Places of ``replicas`` in the order in which they are to be asked.

    By rendezvous hashing: all gateways agree without talking, and when a replica comes or goes, only the prefixes that
    it wins or loses move.
    """
    key = blake2b(prefix.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    scores = [blake2b(name.encode(), key=key, digest_size=8).digest() for name in replicas]
    return sorted(range(len(replicas)), key=scores.__getitem__, reverse=True)


class PrefixRouter(RequestRouter):
    """Consistent hashing with bounded loads, over the beginning of the prompt; by load alone where there is none."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """The replicas to ask, each a rank of its own."""
        if pending_request is None:
            return [_two(candidate_replicas)]
        # Ray asks again at once without this, also while all replicas are full.
        pending_request.routing_context.should_backoff = True
        call: Any = pending_request.args[0]
        if not isinstance(call, Call) or not call.prefix:
            return [_two(candidate_replicas)]
        names = [replica.replica_id.unique_id for replica in candidate_replicas]
        order = [candidate_replicas[place] for place in ranked(call.prefix, names)]
        loads = [self.replica_queue_len_cache.get(replica.replica_id) or 0 for replica in order]
        most = math.ceil(OVERLOAD * (sum(loads) + 1) / len(order))
        return [[replica] for replica, load in zip(order, loads, strict=True) if load < most]


def _two(replicas: list[RunningReplica]) -> list[RunningReplica]:
    """Ray takes the less loaded one."""
    return random.sample(replicas, min(2, len(replicas)))
