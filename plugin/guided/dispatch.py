"""Which backend compiles a constraint; a cache of what was compiled, and a limit on the time it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, TimeoutError
from dataclasses import replace

from cachetools import LRUCache

from chatplan.errors import RequestError
from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend
from chatplan.guided.constraint import Constraint
from chatplan.guided.patterns import class_operator
from chatplan.settings import Settings

__all__ = ["BACKEND_FIELD", "Enforcer"]

BACKEND_FIELD = "guided_decoding_backend"
_EXTRAS = ("xgrammar", "outlines", "lm-format-enforcer")
_MOST_LATE = 8  # compilations that run on although their time is up


class Enforcer:
    """The backends of one model.

    Args:
        backends: in the order in which ``auto`` asks them.
        settings: limits on time, text and memory.
    """

    def __init__(self, backends: Sequence[GrammarBackend], settings: Settings) -> None:
        self.backends: dict[str, GrammarBackend] = {backend.name: backend for backend in reversed(backends)}
        self.order: tuple[str, ...] = tuple(dict.fromkeys(backend.name for backend in backends))
        self.settings = settings
        self._lock = threading.Lock()
        self._running: dict[tuple[Constraint, str], Future[Outcome]] = {}
        self._begun: dict[tuple[Constraint, str], float] = {}
        self._done: LRUCache[tuple[Constraint, str], Outcome] = LRUCache(
            settings.guided_cache_bytes, getsizeof=lambda outcome: outcome.size
        )

    def compile(self, constraint: Constraint, wanted: str = "auto") -> tuple[str, Grammar]:
        """The name of a backend that enforces all of ``constraint``, and the grammar.

        Compiling runs in a thread of its own; several callers who want the same wait for one compilation.

        Raises:
            RequestError: the constraint is wrong, too long, takes too long, or no backend can enforce all of it.
        """
        names = self.choose(wanted)
        try:
            length = len(constraint.text.encode())
        except UnicodeEncodeError:
            raise RequestError("has half of a surrogate pair, which is no character", param=constraint.param) from None
        if length > self.settings.guided_bytes:
            limit = f"{self.settings.guided_bytes} bytes (the setting guided_bytes)"
            raise RequestError(f"is longer than {limit}, got {length}", param=constraint.param)
        if constraint.kind == "regex" and (operator := class_operator(constraint.text)):
            reason = f"has {operator} in a class, which not all dialects read alike; write it as \\{operator[0]}"
            raise RequestError(reason, param=constraint.param)
        # What surrounds the constraint, and which field it comes from, is no matter of the backends.
        core = replace(constraint, before="", after="", thinking=False, param="")
        outcome = self._outcome(core, wanted, names, constraint.param)
        if outcome.grammar is None:
            raise RequestError(outcome.reason, param=constraint.param)
        return outcome.backend, outcome.grammar

    def choose(self, wanted: str) -> tuple[str, ...]:
        """The backends to ask. Raises :class:`RequestError` for a name that is not there."""
        name = wanted.removesuffix(":no-fallback")  # vLLM's spelling; nothing here falls back
        if name == "auto" and self.order:
            return self.order
        if name in self.backends:
            return (name,)
        if name in _EXTRAS:
            hint = f"pip install 'chatplan[{name}]', unless its plugin is switched off"
            raise RequestError(f"{name} is not installed: {hint}", param=BACKEND_FIELD)
        if not self.order:
            raise RequestError("no plugin enforces constraints; the built-in ones are switched off")
        raise RequestError(f"should be one of auto, {', '.join(self.order)}, got {wanted!r}", param=BACKEND_FIELD)

    def _outcome(self, constraint: Constraint, wanted: str, names: Sequence[str], param: str) -> Outcome:
        key = constraint, wanted
        with self._lock:
            if key in self._done:
                return self._done[key]
            future = self._running.get(key)
            if future is None:
                future = self._begin(key, names, param)
        return self._wait(future, names, param)

    def _wait(self, future: Future[Outcome], names: Sequence[str], param: str) -> Outcome:
        while True:
            try:
                return future.result(self.settings.guided_seconds)
            except TimeoutError:
                if not any(self.backends[name].starting for name in names):
                    break
        limit = f"{self.settings.guided_seconds:g} seconds (the setting guided_seconds)"
        raise RequestError(f"takes longer than {limit} to compile", param=param)

    def _begin(self, key: tuple[Constraint, str], names: Sequence[str], param: str) -> Future[Outcome]:
        late = time.monotonic() - self.settings.guided_seconds
        if sum(begun < late for begun in self._begun.values()) >= _MOST_LATE:
            raise RequestError("too many constraints take too long to compile; try again later", param=param)
        future: Future[Outcome] = Future()
        self._running[key], self._begun[key] = future, time.monotonic()
        threading.Thread(target=self._work, args=(key, names, future), name="chatplan-compile", daemon=True).start()
        return future

    def _work(self, key: tuple[Constraint, str], names: Sequence[str], future: Future[Outcome]) -> None:
        try:
            outcome = self._ask(key[0], names)
        except BaseException as error:
            outcome = Outcome(reason=f"cannot be compiled: {type(error).__name__}: {error}")
        with self._lock:
            del self._running[key], self._begun[key]
            if not outcome.passing and outcome.size <= self._done.maxsize:
                self._done[key] = outcome
        future.set_result(outcome)

    def _ask(self, constraint: Constraint, names: Sequence[str]) -> Outcome:
        """The first backend that takes it, or all their reasons."""
        reasons, passing = [], False
        for name in names:
            try:
                return Outcome(name, self._grammar(name, constraint))
            except CannotEnforce as error:
                passing = passing or error.passing
                if error.wrong:
                    return Outcome(reason=str(error))
                reasons.append((name, str(error)))
        if len(names) == 1:
            return Outcome(reason=f"{names[0]} cannot enforce it: {reasons[0][1]}", passing=passing)
        each = "; ".join(f"{name}: {reason}" for name, reason in reasons)
        return Outcome(reason=f"no backend can enforce all of it ({each})", passing=passing)

    def _grammar(self, name: str, constraint: Constraint) -> Grammar:
        """What one backend makes of it. A bug in one is no reason not to ask the next."""
        try:
            grammar = self.backends[name].compile(constraint)
        except CannotEnforce:
            raise
        except Exception as error:
            raise CannotEnforce(f"it failed with {type(error).__name__}: {error}") from error
        if not isinstance(grammar, Grammar):
            raise CannotEnforce(f"its compile() returned {type(grammar).__name__}, not a Grammar")
        return grammar


class Outcome:
    """A grammar and the backend it is from, or the reason why there is none, perhaps only just now."""

    def __init__(
        self, backend: str = "", grammar: Grammar | None = None, reason: str = "", passing: bool = False
    ) -> None:
        self.passing = passing
        self.backend = backend
        self.grammar = grammar
        self.reason = reason
        self.size: int = 1000 + len(reason) + (0 if grammar is None else grammar.size)
