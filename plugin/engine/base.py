"""What every engine promises: give it rows, and it pushes tokens into them until each is over."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from chatplan.plan import GenerationPlan
    from chatplan.response import PromptLogprob
    from chatplan.row import Row

__all__ = ["Engine", "EngineStats"]

PromptLogprobs = list["dict[str, PromptLogprob] | None"]


@dataclass(frozen=True)
class EngineStats:
    """How busy an engine is: rows that wait, rows that run, and the part of the cache in use, from 0 to 1."""

    waiting: int = 0
    running: int = 0
    cache_usage: float = 0.0


class Engine(ABC):
    """Runs plans.

    Attributes:
        name: as in ``engine="generate"``.
        unsupported: request fields this engine cannot honour, each with the reason; such a request is refused by name.
    """

    name: ClassVar[str]
    unsupported: ClassVar[Mapping[str, str]] = {}

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

    def stats(self) -> EngineStats:
        """How busy the engine is now."""
        return EngineStats()

    def close(self) -> None:  # noqa: B027  most engines hold nothing
        """Give back what the engine holds. It is not used afterwards."""
