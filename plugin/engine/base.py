"""What every engine promises: give it rows, and it pushes tokens into them until each is over.

A :class:`Runner` is less: it answers plans, by whatever means. An engine elsewhere that takes whole requests is one.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from chatplan.compiler import compile_plan
from chatplan.run import RowRun, execute, launch

if TYPE_CHECKING:
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan
    from chatplan.request import ChatCompletionRequest
    from chatplan.response import ChatCompletionChunk, PromptLogprob
    from chatplan.row import Row
    from chatplan.run import Run

__all__ = ["Engine", "EngineStats", "Runner"]

PromptLogprobs = list["dict[str, PromptLogprob] | None"]


@dataclass(frozen=True)
class EngineStats:
    """How busy an engine is: rows that wait, rows that run, and the part of the cache in use, from 0 to 1."""

    waiting: int = 0
    running: int = 0
    cache_usage: float = 0.0


class Runner(ABC):
    """Answers plans.

    Attributes:
        name: as in ``engine="generate"``.
        unsupported: request fields this engine cannot honour, each with the reason; such a request is refused by name.
    """

    name: ClassVar[str]
    unsupported: ClassVar[Mapping[str, str]] = {}

    @abstractmethod
    def plan(self, request: ChatCompletionRequest, model: ModelInfo, plugins: Plugins) -> GenerationPlan:
        """The plan of a request, as this engine would run it.

        Raises:
            RequestError: a field is refused.
        """

    @abstractmethod
    def open(self, plan: GenerationPlan, model: ModelInfo, sink: Callable[[ChatCompletionChunk], None]) -> Run:
        """A run of the plan, which has not begun."""

    @abstractmethod
    def answer(self, runs: Sequence[Any]) -> None:
        """Answer all of these runs, which :meth:`open` made; each one's error is left in ``run.error``."""

    @abstractmethod
    def begin(self, run: Any, done: Callable[[Any], None]) -> None:
        """:meth:`answer` one run without waiting: ``done`` is called with it when it is over, in some thread."""

    def stats(self) -> EngineStats:
        """How busy the engine is now."""
        return EngineStats()

    def close(self) -> None:  # noqa: B027  most engines hold nothing
        """Give back what the engine holds. It is not used afterwards."""


class Engine(Runner):
    """Runs the rows of plans that are compiled here."""

    def plan(self, request: ChatCompletionRequest, model: ModelInfo, plugins: Plugins) -> GenerationPlan:
        plan = compile_plan(request, model, plugins, self.unsupported)
        self.check(plan)
        return plan

    def check(self, plan: GenerationPlan) -> None:
        """Raises :class:`RequestError` for what the engine cannot honour, where ``unsupported`` cannot tell."""

    def open(self, plan: GenerationPlan, model: ModelInfo, sink: Callable[[ChatCompletionChunk], None]) -> RowRun:
        return RowRun(plan, model, sink)

    def answer(self, runs: Sequence[RowRun]) -> None:
        execute(self, runs)

    def begin(self, run: RowRun, done: Callable[[RowRun], None]) -> None:
        launch(self, run, done)

    @abstractmethod
    def run(self, rows: Sequence[Row]) -> None:
        """Generate until every row is finished, pushing each token as it is drawn.

        A row that is cancelled takes no further step. What one row's stages raise is that row's error alone; what the
        model raises propagates.
        """

    def submit(self, rows: Sequence[Row], done: Callable[[], None]) -> None:
        """:meth:`run` without waiting; ``done`` is called in some thread when every row is finished.

        What the model raises becomes the error of each row. Engines that take requests at any step override this.
        """

        def work() -> None:
            try:
                self.run(rows)
            except Exception as error:
                for row in rows:
                    row.fail(error)
            done()

        threading.Thread(target=work, name=f"chatplan-{self.name}", daemon=True).start()

    @abstractmethod
    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        """One entry for each prompt token: ``None`` for the first, then the token taken and the likeliest ones."""
