"""One model on several ranks: rank 0 decides, and the others repeat each of its forward passes.

A forward pass of a sharded model is a dialogue of all ranks, so all must make the same ones in the same order. Only
rank 0 has requests, plans, draws and ends; what its model is called with goes to the other ranks before each pass. They
hold nothing that could come out of step but their shards of the caches, which rank 0 names by number.
"""

from __future__ import annotations

import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from chatplan.engine.batches import CausalLM, input_device
from chatplan.engine.channel import Channel
from chatplan.errors import EngineError

__all__ = ["GRACE", "Leader", "follow"]

log: logging.Logger = logging.getLogger("chatplan")

GRACE = 10.0  # seconds in which ranks that failed alike agree that they did
_CPU = torch.device("cpu")
_CACHE = "past_key_values"
_CHANGES = ("reorder_cache", "crop")  # what `generate` does to a cache between two passes


@dataclass(frozen=True)
class Forward:
    """One call of the model.

    Attributes:
        number: counts the calls; a cache that is made by one has its number.
        arguments: all but the cache, tensors on the CPU.
        cache: number of the cache to go on with.
        fresh: in place of that, a cache which is new and empty.
        dropped: numbers of caches that nobody holds any more.
    """

    number: int
    arguments: Mapping[str, Any]
    cache: int | None = None
    fresh: Any = None
    dropped: tuple[int, ...] = ()


@dataclass(frozen=True)
class Change:
    """A method of a cache to call, with tensors on the CPU."""

    cache: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True)
class Meet:
    """Rank 0 failed in a pass: whoever gets this failed as well, and all go on."""


@dataclass(frozen=True)
class Close:
    """The end."""


class Leader:
    """Rank 0's side: whoever calls the model on rank 0 calls it on all ranks. One call at a time.

    Args:
        seconds: the longest that a rank may take to take part in a call.

    Attributes:
        broken: why no further call can be made; ``None`` while all is well.
        closed: whether the other ranks were let go.
    """

    def __init__(self, model: CausalLM, channel: Channel, seconds: float) -> None:
        self.channel = channel
        self.seconds = seconds
        self.broken: str | None = None
        self.closed: bool = False
        self._numbers = itertools.count()
        self._number = 0
        self._living: dict[int, int] = {}  # numbers of caches, by id()
        self._dropped: list[int] = []
        self._lock = threading.Lock()  # held while a pass is under way
        self._sending = threading.Lock()  # held while a message is sent: other threads change caches meanwhile
        self._inside = False
        self._mine = threading.local()  # whether the thread's own last pass failed
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True, always_call=True)

    def close(self) -> None:
        """Let the other ranks go, when the pass under way has ended; a call after that is an error."""
        if self.broken is None and self._lock.acquire(timeout=GRACE):
            with suppress(EngineError):
                self._send(Close())
                self.closed = True
            self.broken = self.broken or "it is closed"
            self._lock.release()

    def settle(self) -> None:
        """When a pass has failed: find out whether all ranks failed alike; if not, ``broken`` says so."""
        if not getattr(self._mine, "failed", False) or self.broken is not None:
            return
        self._mine.failed = False
        if not self._lock.acquire(timeout=self.seconds):
            self.break_off("a pass of another thread does not end")
            return
        try:
            with self._sending:
                self.channel.send(Meet(), GRACE)
                self.channel.meet(GRACE)
        except RuntimeError as error:
            self.break_off("another rank has gone or does not answer", error)
        finally:
            self._lock.release()

    def break_off(self, reason: str, error: Exception | None = None) -> None:
        """No further call can be made, for this reason."""
        if self.broken is None:
            log.error("the model on several ranks cannot go on: %s%s", reason, f": {error}" if error else "")
            self.broken = reason

    def change(self, cache: int, method: str, arguments: tuple[Any, ...]) -> None:
        """Call a method of a cache on the other ranks."""
        self._send(Change(cache, method, moved(arguments, _CPU)))

    def _before(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._lock.acquire()
        self._inside = True
        if args:
            raise EngineError("a model on several ranks takes its inputs by name")
        cache: Any = kwargs.get(_CACHE)
        self._number = next(self._numbers)
        known = self._living.get(id(cache))
        fresh = cache if known is None else None
        if fresh is not None and fresh.get_seq_length() > 0:
            raise EngineError("a cache that was filled elsewhere is on no other rank")
        arguments = moved({name: value for name, value in kwargs.items() if name != _CACHE}, _CPU)
        dropped = tuple(self._dropped.pop() for _ in range(len(self._dropped)))
        self._send(Forward(self._number, arguments, known, fresh, dropped))
        self._mine.failed = True  # until it has ended
        if fresh is not None:
            self._keep(fresh)

    def _after(self, model: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Called for a pass that failed as well, then without an output."""
        if output is not None:
            self._mine.failed = False
            cache = getattr(output, _CACHE, None)
            if cache is not None and id(cache) not in self._living:
                self._keep(cache)
        if self._inside:
            self._inside = False
            self._lock.release()

    def _send(self, message: object) -> None:
        with self._sending:
            if self.broken is not None:
                raise EngineError(f"the model is on several ranks, and {self.broken}")
            try:
                self.channel.send(message, self.seconds)
            except RuntimeError as error:
                self.break_off("another rank has gone", error)
                raise EngineError(f"the model is on several ranks, and {self.broken}") from error

    def _keep(self, cache: Any) -> None:
        """Know a cache again, repeat what is done to it, and tell when nobody holds it any more."""
        self._living[id(cache)] = self._number
        kind: Any = type(cache)
        cache.__class__ = _repeated(kind)
        cache.repeats = self, self._number
        weakref.finalize(cache, self._drop, id(cache), self._number).atexit = False

    def _drop(self, key: int, number: int) -> None:
        self._living.pop(key, None)
        self._dropped.append(number)


@lru_cache
def _repeated(kind: Any) -> Any:
    """A class of caches like ``kind``, whose changes are made on all ranks."""

    def repeating(name: str) -> Callable[..., Any]:
        def method(self: Any, *arguments: Any) -> Any:
            leader, number = self.repeats
            leader.change(number, name, arguments)
            return getattr(kind, name)(self, *arguments)

        return method

    return type(kind.__name__, (kind,), {name: repeating(name) for name in _CHANGES if hasattr(kind, name)})


def follow(model: CausalLM, channel: Channel) -> None:
    """The other ranks' side: repeat what rank 0 does with its model, until it closes.

    Raises:
        RuntimeError: rank 0 has gone, or failed where this rank did not, or the other way round.
    """
    caches: dict[int, Any] = {}
    failed = False
    # Rank 0 meets soon those who failed as it did. Else it waits for this rank, and only its end lets rank 0 go on.
    while not isinstance(message := channel.receive(GRACE if failed else None), Close):
        failed = False
        if isinstance(message, Meet):
            channel.meet(GRACE)
        elif isinstance(message, Change):
            getattr(caches[message.cache], message.method)(*moved(message.arguments, input_device(model)))
        else:
            failed = not _repeat(model, message, caches)


@torch.no_grad()
def _repeat(model: CausalLM, message: Forward, caches: dict[int, Any]) -> bool:
    for number in message.dropped:
        caches.pop(number, None)
    if message.fresh is not None:
        caches[message.number] = message.fresh
    cache = message.fresh if message.cache is None else caches[message.cache]
    arguments = moved(message.arguments, input_device(model))
    try:
        output = model(**arguments, **({} if cache is None else {_CACHE: cache}))
    except Exception as error:  # whatever it is, rank 0 has it as well, or gets to know
        log.warning("a step failed: %s: %s", type(error).__name__, error)
        return False
    if cache is None and getattr(output, _CACHE, None) is not None:
        caches[message.number] = output[_CACHE]
    return True


def moved(value: Any, device: torch.device) -> Any:
    """Tensors on ``device``, wherever they are in dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: moved(item, device) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(moved(item, device) for item in value)
    return value
