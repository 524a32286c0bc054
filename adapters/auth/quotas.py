"""What a principal may do: models, priority, rates and requests at once."""

from __future__ import annotations

import threading
import time
from collections import Counter

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from chatplan.errors import PermissionDeniedError, RateLimitError
from chatplan.principal import Principal

__all__ = ["Quotas"]

_MINUTE = 60


class Quotas:
    """Counts what each principal uses, in this process. Rates hold over a sliding window of one minute.

    No method blocks. What is kept of a principal is a few numbers, and is dropped two minutes after the last request.
    """

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = SlidingWindowCounterRateLimiter(self._storage)
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    def check(self, principal: Principal, model: str, priority: int) -> None:
        """Whether the principal may ask ``model`` at ``priority`` (lower goes first).

        Raises:
            PermissionDeniedError: ``param`` is ``model`` or ``priority``.
        """
        if principal.models is not None and model not in principal.models:
            raise PermissionDeniedError(f"the credential does not allow the model {model!r}", param="model")
        most = principal.max_priority
        if most is not None and priority < most:
            message = f"the credential allows {most} and higher numbers, which are less urgent, got {priority}"
            raise PermissionDeniedError(message, param="priority")

    def enter(self, principal: Principal, tokens: int = 0) -> None:
        """Begin a request whose prompt has that many tokens. Call :meth:`leave` when it is over, however it ends.

        Raises:
            RateLimitError: too many requests at once or in a minute, or tokens in a minute; nothing was counted then.
        """
        with self._lock:
            running = self._running[principal.name]
            if principal.concurrency is not None and running >= principal.concurrency:
                message = f"at most {principal.concurrency} requests at once"
                raise RateLimitError(message, code="concurrency_exceeded")
            requests = self._room("requests", principal.name, principal.requests_per_minute, 1)
            spent = self._room("tokens", principal.name, principal.tokens_per_minute, max(tokens, 1))
            self._count(requests, principal.name, 1)
            self._count(spent, principal.name, tokens)
            self._running[principal.name] = running + 1

    def spend(self, principal: Principal, tokens: int) -> None:
        """Count the tokens of an answer. They are counted beyond the limit too: then the next request waits longer."""
        if principal.tokens_per_minute is not None:
            item = RateLimitItemPerMinute(principal.tokens_per_minute, namespace="tokens")
            with self._lock:
                self._count(item, principal.name, tokens)

    def leave(self, principal: Principal) -> None:
        """End a request that :meth:`enter` let in."""
        with self._lock:
            self._running[principal.name] -= 1
            if self._running[principal.name] <= 0:
                del self._running[principal.name]

    def _room(self, what: str, name: str, most: int | None, cost: int) -> RateLimitItemPerMinute | None:
        """The limit to count in, if there is one; raises if ``cost`` more would exceed it."""
        if most is None:
            return None
        item = RateLimitItemPerMinute(most, namespace=what)
        if not self._limiter.test(item, name, cost=cost):
            wait = self._seconds_until(item, name, cost)
            raise RateLimitError(f"at most {most} {what} a minute", code=f"{what}_per_minute", retry_after=wait)
        return item

    def _count(self, item: RateLimitItemPerMinute | None, name: str, cost: int) -> None:
        if item is not None and cost > 0:
            # The limiter's own `hit` would not count what exceeds the limit.
            _, window = self._storage.sliding_window_keys(item.key_for(name), _MINUTE, time.time())
            self._storage.incr(window, 2 * _MINUTE, amount=cost)

    def _seconds_until(self, item: RateLimitItemPerMinute, name: str, cost: int) -> float:
        """When the window will have slid so far that ``cost`` fits; a whole minute if it never does."""
        before, _, now, rest = self._storage.get_sliding_window(item.key_for(name), _MINUTE)
        if cost > item.amount:
            return _MINUTE
        slides, most = rest - _MINUTE, item.amount - cost + 1  # until the window begins to slide; it fits below `most`
        if now >= most:
            return max(1.0, slides + _MINUTE * (1 - most / now))
        return max(1.0, slides - _MINUTE * (most - now) / before) if before else 1.0
