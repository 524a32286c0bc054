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
        waiting = [] if self.block_new_requests else self._get_waiting_candidates()
        if waiting:
            self._make_room(min(waiting, key=urgency), token_budget)
            waiting = self._get_waiting_candidates()
        candidates = sorted([*self.active_requests.values(), *waiting], key=urgency)
        taken: set[str] = set()
        scheduled, failed, fast, queries, reads = self._process_candidates(
            candidates, token_budget, cache_budget, taken
        )
        self._cleanup_waiting_queue(taken)
        return (None, fast, 0, 0) if not scheduled and failed else (scheduled, fast, queries, reads)

    def _make_room(self, first: RequestState, token_budget: int) -> None:
        """Take the cache of less urgent requests until ``first`` fits, as far as there are any."""
        while not self._fits(first, token_budget):
            last = max(self.active_requests.values(), key=urgency, default=None)
            if last is None or urgency(last)[0] <= urgency(first)[0]:
                return
            self._preempt(last)

    def _fits(self, state: RequestState, token_budget: int) -> bool:
        length = min(len(state.remaining_prefill_tokens), token_budget)
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
