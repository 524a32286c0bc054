"""A row of the batch: one answer being generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from chatplan.output import StageState, Step, TokenScores
from chatplan.plan import StopTokens

if TYPE_CHECKING:
    from chatplan.draws import Draws
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan
    from chatplan.response import FinishReason

__all__ = ["Row"]


class Row:
    """One answer to one request while it is generated. Engines :meth:`push` tokens; readers get finished steps.

    Attributes:
        plan: the request's plan.
        model: whose tokens these are.
        index: which of the request's rows this is, from 0.
        draws: the row's random numbers; ``None`` for rows that draw nothing.
        prompt_ids, output_ids: what the model has read and written so far.
        scores: log-probabilities at the position being drawn, left by a processor for the output stages.
        cumulative_logprob: sum over the drawn tokens, kept when a processor reads them.
        states: what processors keep for this row from step to step, each under a key of its own.
        finish_reason, stop_reason: set once the row is over.
        error: what a stage or a processor raised for this row.
        on_cancel: told when the row is cancelled; set by engines that would not see it at once.
    """

    def __init__(
        self,
        plan: GenerationPlan,
        model: ModelInfo,
        index: int = 0,
        emit: Callable[[Row, Step], None] | None = None,
        draws: Draws | None = None,
    ) -> None:
        self.plan = plan
        self.model = model
        self.index = index
        self.draws = draws
        self.prompt_ids: tuple[int, ...] = plan.prompt.token_ids
        self.output_ids: list[int] = []
        self.scores: TokenScores | None = None
        self.cumulative_logprob: float = 0.0
        self.states: dict[Any, Any] = {}
        self.finish_reason: FinishReason | None = None
        self.stop_reason: str | int | None = None
        self.error: BaseException | None = None
        self.cancelled: bool = False
        self.on_cancel: Callable[[Row], None] | None = None
        self._emit = emit or (lambda row, step: None)
        self._eos = frozenset(plan.generation_config.get("eos_token_id") or ())
        self._stops = frozenset(i for s in plan.stopping_criteria if isinstance(s, StopTokens) for i in s.token_ids)
        self._limit = plan.max_new_tokens
        self._stages = [stage.open(self) for stage in plan.output_stages]

    @property
    def finished(self) -> bool:
        """Whether the row takes no more tokens."""
        return self.finish_reason is not None or self.cancelled or self.error is not None

    def push(self, token_id: int) -> bool:
        """Take one drawn token; returns whether the row is over.

        The order of the checks is vLLM's: end of sequence, stop tokens, stop strings (an output stage), length.
        """
        if self.finished:
            return True
        self.output_ids.append(token_id)
        step = Step([token_id], self.scores)
        self.scores = None
        if token_id in self._eos:
            step.finish_reason = "stop"
        elif token_id in self._stops:
            step.finish_reason, step.stop_reason = "stop", token_id
        self._through(step, self._stages)
        if step.finish_reason is None and len(self.output_ids) >= self._limit:
            step.finish_reason = "length"
        self._deliver(step)
        return self.finished

    def finish(self, reason: FinishReason) -> None:
        """End the row from outside, as when a stopping criterion of a plugin fires."""
        if not self.finished:
            self._deliver(Step(finish_reason=reason))

    def fail(self, error: BaseException) -> None:
        """End the row because something raised; the request gets the error, its neighbours go on."""
        self.error = self.error or error

    def cancel(self) -> None:
        """Nobody reads any more: the engine drops the row at its next step."""
        self.cancelled = True
        on_cancel = self.on_cancel  # the engine's thread may take it back just now
        if on_cancel is not None:
            on_cancel(self)

    def _through(self, step: Step, stages: Sequence[StageState]) -> None:
        for stage in stages:
            stage.feed(step)

    def _deliver(self, step: Step) -> None:
        if step.finish_reason is None:
            self._emit(self, step)
            return
        self._close(step)
        self.finish_reason, self.stop_reason = step.finish_reason, step.stop_reason
        self._emit(self, step)

    def _close(self, step: Step) -> None:
        """Flush the stages front to back, each one's remainder through those behind it, into the last step.

        A stage may know better why an answer stopped: because it called a tool.
        """
        for position, stage in enumerate(self._stages):
            rest = stage.close()
            if rest is not None:
                self._through(rest, self._stages[position + 1 :])
                step.text += rest.text
                step.reasoning += rest.reasoning
                step.tool_calls += rest.tool_calls
                step.logprobs += rest.logprobs
                if rest.finish_reason is not None and step.finish_reason == "stop":
                    step.finish_reason = rest.finish_reason
