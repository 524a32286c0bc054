"""The engine on transformers' continuous batching: requests come and go at any step, each with its own fields.

transformers keeps the loop, the scheduler and the paged cache. One logits processor of ours draws for all rows of a
step. What that loop cannot do (beam search, prompts with images, log-probabilities of a prompt) runs on ``generate``
while it pauses.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from chatplan.capabilities import UNSUPPORTED
from chatplan.engine.base import Engine, EngineStats, PromptLogprobs
from chatplan.engine.generate import GenerateEngine
from chatplan.engine.manage import Loop, why_not
from chatplan.engine.packed import pack, unpack
from chatplan.engine.steps import RowProcessor
from chatplan.engine.tickets import Group, Ticket
from chatplan.engine.turns import Turns
from chatplan.errors import EngineError
from chatplan.plan import ENGINE_ATTRIBUTES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan
    from chatplan.row import Row

__all__ = ["ContinuousEngine"]

# What rows see to themselves; any other attribute of GenerationConfig is honoured by `generate`.
_OURS = {"max_new_tokens", "eos_token_id", "num_return_sequences", "do_sample", "num_beams", *ENGINE_ATTRIBUTES}


class ContinuousEngine(Engine):
    """Runs rows as they come; the model belongs to it until :meth:`close`.

    Args:
        info: the model.
        serving: whether nobody else uses it.

    Raises:
        EngineError: continuous batching cannot run this model; the message says why.
    """

    name = "continuous"
    unsupported: ClassVar[Mapping[str, str]] = UNSUPPORTED["continuous"]

    def __init__(self, info: ModelInfo, serving: bool = False) -> None:
        reason = why_not(info)
        if reason is not None:
            raise EngineError(f"continuous batching cannot run {info.name}: {reason}")
        self.info = info
        self.model: PreTrainedModel = info.require_module()
        self._aside = GenerateEngine(info)
        self._tickets: dict[Row, Ticket] = {}
        self._numbers = itertools.count()
        self._pause = Turns()
        packs = serving if info.settings.pack_weights is None else info.settings.pack_weights
        me = weakref.WeakMethod(self._read), weakref.WeakMethod(self._over), weakref.WeakMethod(self._failed)
        read, over, failed = (_weakly(method) for method in me)
        self.loop: Loop = Loop(info, RowProcessor(read, over), failed)
        if packs:
            pack(self.model)
        # The loop must not keep an engine alive that nobody uses, nor the interpreter.
        self._close = weakref.finalize(self, _close, self.loop, self.model, packs)

    def run(self, rows: Sequence[Row]) -> None:
        over = threading.Event()
        self.submit(rows, over.set)
        try:
            over.wait()
        except BaseException:  # somebody pressed Ctrl-C: nobody waits any more
            for row in rows:
                row.cancel()
            raise

    def submit(self, rows: Sequence[Row], done: Callable[[], None]) -> None:
        if not rows:
            done()
            return
        group = Group(rows, done)
        here = [row for row in rows if not needs_generate(row)]
        aside = [row for row in rows if needs_generate(row)]
        for tickets in self._by_prompt([Ticket(row, group, next(self._numbers)) for row in here]):
            # The first one reads the prompt; the others then find it in the cache.
            lead, *tickets[0].followers = tickets
            self._enter(lead)
        if aside:
            threading.Thread(target=self._run_aside, args=(aside, group), name="chatplan-aside", daemon=True).start()

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        # In a thread that ends: each one that computes keeps a team of OpenMP's, which slows the loop's down.
        with ThreadPoolExecutor(1, "chatplan-aside") as thread, self._paused(plan.request.priority):
            return thread.submit(self._aside.prompt_logprobs, plan).result()

    def stats(self) -> EngineStats:
        return self.loop.stats()

    def close(self) -> None:
        self._close()
        # transformers drops what it took from its queue in the moment it is told to stop.
        for ticket in list(self._tickets.values()):
            self._failed(ticket, EngineError("the engine is closed"))

    def _by_prompt(self, tickets: Sequence[Ticket]) -> Iterator[list[Ticket]]:
        """Tickets of one plan together, where its prompt is long enough to be shared; else each alone."""
        for _, same in itertools.groupby(tickets, key=lambda ticket: id(ticket.row.plan)):
            found = list(same)
            if self.loop.can_share(found[0].row.prompt_ids):
                yield found
            else:
                yield from ([ticket] for ticket in found)

    def _enter(self, ticket: Ticket) -> None:
        """Give a ticket to the loop; its row may have been cancelled already, or be just now."""
        self._tickets[ticket.row] = ticket
        ticket.row.on_cancel = lambda row: self._over(ticket)
        if ticket.row.finished:
            self._over(ticket)
        elif not self.loop.add(ticket):
            self._failed(ticket, EngineError("the engine is closed"))
        elif ticket.row.finished:  # cancelled just now: what was told before the loop had it was told too early
            self.loop.remove(ticket)

    def _read(self, ticket: Ticket) -> None:
        followers, ticket.followers = ticket.followers, []
        for follower in followers:
            self._enter(follower)

    def _over(self, ticket: Ticket) -> None:
        """The row ended, failed or was cancelled: its place and its cache are free at the next step."""
        if self._tickets.pop(ticket.row, None) is not None:
            ticket.row.on_cancel = None
            self.loop.remove(ticket)
            if ticket.row.error is not None:
                self._drop_siblings(ticket)
            self._read(ticket)
            ticket.group.over(ticket.row)

    def _drop_siblings(self, failed: Ticket) -> None:
        """The request has no answer any more, so its other rows need not go on."""
        for other in [*self._tickets.values(), *failed.followers]:
            if other.group is failed.group and other.row.plan is failed.row.plan:
                other.row.cancel()

    def _failed(self, ticket: Ticket, error: Exception) -> None:
        """The loop broke. Those who wait for this ticket do not enter: that is tried in the loop's own thread."""
        followers, ticket.followers = ticket.followers, []
        for each in (ticket, *followers):
            each.row.fail(error)
            self._over(each)
            each.group.over(each.row)

    def _run_aside(self, rows: Sequence[Row], group: Group) -> None:
        try:
            if not all(row.finished for row in rows):
                with self._paused(rows[0].plan.request.priority):
                    self._aside.run(rows)
        except Exception as error:
            for row in rows:
                row.fail(error)
        for row in rows:
            group.over(row)

    @contextmanager
    def _paused(self, priority: int) -> Iterator[None]:
        """The model for ``generate``, while the loop waits; then the loop has as much time before the next one."""
        with self._pause.turn(priority):
            began = time.monotonic()
            with self.loop.paused():
                yield
            if len(self._pause) and self.loop.stats().running:
                time.sleep(time.monotonic() - began)


def needs_generate(row: Row) -> bool:
    """Whether a row wants what only ``generate`` does."""
    plan = row.plan
    return plan.beams > 1 or bool(plan.prompt.inputs) or not set(plan.generation_config) <= _OURS


def _weakly(method: weakref.WeakMethod[Any]) -> Callable[..., None]:
    def call(*arguments: Any) -> None:
        bound = method()
        if bound is not None:
            bound(*arguments)

    return call


def _close(loop: Loop, model: Any, packed: bool) -> None:
    loop.close()
    if packed:
        unpack(model)
