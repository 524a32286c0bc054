"""The engine ``generate`` for a model whose layers are sharded over several ranks."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from chatplan.engine.base import EngineStats, PromptLogprobs
from chatplan.engine.generate import GenerateEngine
from chatplan.errors import EngineError

if TYPE_CHECKING:
    from chatplan.engine.relay import Leader
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan
    from chatplan.row import Row

__all__ = ["LEADERS", "TensorParallelEngine"]

_T = TypeVar("_T")


LEADERS: weakref.WeakKeyDictionary[Any, tuple[Leader, Callable[[], object]]] = weakref.WeakKeyDictionary()
"""On rank 0: models that are on several ranks, with who leads, and what lets the others go."""


class TensorParallelEngine(GenerateEngine):
    """Runs on rank 0 as if the model were whole; the other ranks repeat its forward passes."""

    name = "tensor_parallel"

    def __init__(self, info: ModelInfo) -> None:
        super().__init__(info)
        self.leader: Leader
        self.leader, self._close = LEADERS[self.model]
        # A compiled step would leave out what is sent before it.
        self.model.generation_config.disable_compile = True

    def run(self, rows: Sequence[Row]) -> None:
        def cancel() -> None:
            for row in rows:
                row.cancel()

        _away_from_signals(lambda: self._run(rows), cancel)

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        return _away_from_signals(lambda: self._prompt_logprobs(plan))

    def stats(self) -> EngineStats:
        """As of ``generate``; raises :class:`RuntimeError` when another rank has gone."""
        if self.leader.broken is not None:
            raise RuntimeError(self.leader.broken)
        return super().stats()

    def close(self) -> None:
        self._close()

    def _run(self, rows: Sequence[Row]) -> None:
        with self._in_step():
            super().run(rows)

    def _prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        with self._in_step():
            return super().prompt_logprobs(plan)

    @contextmanager
    def _in_step(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.leader.settle()
            if self.leader.broken is None or isinstance(error, EngineError):
                raise
            raise EngineError(f"the model is on several ranks, and {self.leader.broken}") from error


def _away_from_signals(work: Callable[[], _T], cancel: Callable[[], None] = lambda: None) -> _T:
    """Run ``work`` where Ctrl-C cannot raise in the middle of a forward pass and leave the other ranks waiting."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    future: Future[_T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="chatplan-tensor-parallel", daemon=True).start()
    try:
        return future.result()
    except KeyboardInterrupt:
        cancel()
        raise
