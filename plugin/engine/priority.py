"""Which request goes first: transformers' scheduler with priorities."""

from __future__ import annotations

from typing import Any

from transformers.generation.continuous_batching.requests import RequestState, RequestStatus
from transformers.generation.continuous_batching.scheduler import SCHEDULER_MAPPING, FIFOScheduler

__all__ = ["NAME", "PriorityScheduler"]

NAME = "chatplan_priority"


class PriorityScheduler(FIFOScheduler):
    """Lower ``priority`` first; equals as in the order they came, those that run before those that wait.

    A step takes requests until its tokens or rows are used up, so a more urgent request that comes while the batch is
    full pauses a less urgent one, which keeps its cache. Where the cache is full, the least urgent request, and of
    equals the youngest, gives its cache back and waits; what it wrote becomes part of its prompt.
    """

    def schedule_batch(self, token_budget: int, cache_budget: int) -> Any:
        self._make_room(token_budget)
        candidates = sorted([*self.active_requests.values(), *self._admitted()], key=urgency)
        taken: set[str] = set()
        scheduled, failed, fast, queries, reads = self._process_candidates(
            candidates, token_budget, cache_budget, taken
        )
        self._cleanup_waiting_queue(taken)
        return (None, fast, 0, 0) if not scheduled and failed else (scheduled, fast, queries, reads)

    def _admitted(self) -> list[RequestState]:
        """Who waits and may enter; after the cache was full, only who is more urgent than somebody inside."""
        waiting: list[RequestState] = self._get_waiting_candidates()
        if not self.block_new_requests:
            return waiting
        last = max((urgency(state)[0] for state in self.active_requests.values()), default=0)
        return [state for state in waiting if urgency(state)[0] < last]

    def _make_room(self, token_budget: int) -> None:
        """Take the cache of the least urgent until the most urgent of those that do not fit does, if that helps."""
        everyone = sorted([*self.active_requests.values(), *self._admitted()], key=urgency)
        first = next((state for state in everyone if not self._fits(state, token_budget)), None)
        while first is not None and not self._fits(first, token_budget):
            last = max(self.active_requests.values(), key=urgency, default=None)
            if last is None or urgency(last)[0] <= urgency(first)[0]:
                return
            self._preempt(last)

    def _fits(self, state: RequestState, token_budget: int) -> bool:
        left = state.tokens_to_process if state.status == RequestStatus.DECODING else state.remaining_prefill_tokens
        length = min(len(left), token_budget)
        if self.cache.can_store_request_tokens(state, length, dry_run=True):
            return True
        self.cache.evict_cached_blocks()
        self.cache.pool.try_to_free_sectors()
        return self.cache.can_store_request_tokens(state, length, dry_run=True)

    def _preempt(self, state: RequestState) -> None:
        again = state.create_equivalent_initial_request()
        self.finish_request(state.request_id)
        state.status = RequestStatus.FINISHED
        self.add_waiting_request(again)


def urgency(state: RequestState) -> tuple[int, int, int]:
    """What candidates are sorted by; waiting requests that were preempted keep the place they came in."""
    ticket = state.logit_processor_kwargs["ticket"]
    return ticket.priority, _PROGRESS.get(state.status, 2), ticket.number


_PROGRESS = {RequestStatus.DECODING: 0, RequestStatus.PREFILLING: 1}

SCHEDULER_MAPPING[NAME] = PriorityScheduler
