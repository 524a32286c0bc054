"""A plan being answered: the chunks of its answer, and the rows whose steps they are made of."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from chatplan.draws import Draws
from chatplan.errors import ChatplanError, EngineError
from chatplan.output import Step
from chatplan.response import ChatCompletionChunk, ChunkChoice, Delta, LogprobsContent, Usage
from chatplan.row import Row

if TYPE_CHECKING:
    from chatplan.engine import Engine
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan

__all__ = ["RowRun", "Run", "execute", "launch"]


class Run(ABC):
    """One request on its way to an answer; ``sink`` gets the chunks.

    The chunks are: one with the role for each choice (and one with the echo), deltas as they come, the last delta of a
    choice with its ``finish_reason``, and at the end one without choices, with the usage.

    Attributes:
        usage: the tokens it took, once it is over.
        error: what it failed with.
    """

    def __init__(self, plan: GenerationPlan, sink: Callable[[ChatCompletionChunk], None]) -> None:
        self.plan = plan
        self.created: int = int(time.time())
        self.usage: Usage | None = None
        self.error: ChatplanError | None = None
        self._sink = sink

    @abstractmethod
    def cancel(self) -> None:
        """Nobody reads any more."""

    @property
    @abstractmethod
    def tokens(self) -> tuple[int, int]:
        """Tokens of the prompt and of the answer so far."""


class RowRun(Run):
    """A run whose tokens an engine pushes, row by row."""

    def __init__(self, plan: GenerationPlan, model: ModelInfo, sink: Callable[[ChatCompletionChunk], None]) -> None:
        super().__init__(plan, sink)
        # Which samples are the best is known only at the end, so their steps wait.
        self._held: dict[Row, list[Step]] | None = {} if plan.samples > plan.choices else None
        seed = plan.generation_config.get("seed")
        self.rows: list[Row] = [
            Row(plan, model, index, self._emit, Draws(seed, index)) for index in range(plan.samples)
        ]

    def start(self) -> None:
        """The role chunks."""
        ids = list(self.plan.prompt.token_ids) if self.plan.request.return_token_ids else None
        for index in range(self.plan.choices):
            self._send(index, Delta(role=self.plan.prompt.role, content=""), prompt_token_ids=ids)
            if self.plan.prompt.echo:
                self._send(index, Delta(content=self.plan.prompt.echo))

    def finish(self, engine: Engine) -> None:
        """The steps that waited, and the usage chunk. Raises what a row failed with."""
        for row in self.rows:
            if row.error is not None:
                raise row.error
        best = self._best()
        self.settle(best)
        for index, row in enumerate(best if self._held is not None else ()):
            for step in (self._held or {}).get(row, ()):
                self._write(index, step)
        report = {}
        if self.plan.generation_config.get("prompt_logprobs") is not None:
            report["prompt_logprobs"] = engine.prompt_logprobs(self.plan)
        self._sink(self._chunk([], usage=self.usage, **report))

    def settle(self, rows: Sequence[Row]) -> None:
        """Count the tokens of ``rows``, also when nobody waits for the rest."""
        self.usage: Usage | None = self._count(sum(len(row.output_ids) for row in rows))

    def cancel(self) -> None:
        for row in self.rows:
            row.cancelled = True  # all of them, before an engine lets another one in for the first
        for row in self.rows:
            row.cancel()

    @property
    def tokens(self) -> tuple[int, int]:
        return len(self.plan.prompt.token_ids), sum(len(row.output_ids) for row in self.rows)

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled before its rows were over; one that failed was not, though its rows were."""
        if any(row.error is not None for row in self.rows):
            return False
        return any(row.cancelled and row.finish_reason is None for row in self.rows)

    def _best(self) -> list[Row]:
        if self._held is None:
            return self.rows
        return sorted(self.rows, key=lambda row: -row.cumulative_logprob)[: self.plan.choices]

    def _emit(self, row: Row, step: Step) -> None:
        if self._held is None:
            self._write(row.index, step)
        else:
            self._held.setdefault(row, []).append(step)

    def _write(self, index: int, step: Step) -> None:
        """One step as a chunk; a step that shows the reader nothing makes none."""
        delta = Delta()
        if step.text:
            delta.content = step.text
        if step.reasoning:
            delta.reasoning_content = step.reasoning
        if step.tool_calls:
            delta.tool_calls = step.tool_calls
        ids = step.token_ids if step.show_token_ids else None
        if delta.model_fields_set or step.logprobs or ids or step.finish_reason:
            self._send(index, delta, step, ids)

    def _send(
        self,
        index: int,
        delta: Delta,
        step: Step | None = None,
        token_ids: list[int] | None = None,
        prompt_token_ids: list[int] | None = None,
    ) -> None:
        choice = ChunkChoice(index=index, delta=delta)
        if token_ids is not None:
            choice.token_ids = token_ids
        if step is not None and step.logprobs:
            choice.logprobs = LogprobsContent(content=step.logprobs)
        if step is not None and step.finish_reason:
            choice.finish_reason, choice.stop_reason = step.finish_reason, step.stop_reason
        chunk = self._chunk([choice])
        if prompt_token_ids is not None:
            chunk.prompt_token_ids = prompt_token_ids
        options = self.plan.request.stream_options
        if options is not None and options.continuous_usage_stats:
            chunk.usage = self._count(len(self.rows[index].output_ids))
        self._sink(chunk)

    def _chunk(self, choices: list[ChunkChoice], **more: object) -> ChatCompletionChunk:
        identity = {"id": f"chatcmpl-{self.plan.request_id}", "created": self.created, "model": self.plan.model}
        return ChatCompletionChunk.model_validate({**identity, "choices": choices, **more})

    def _count(self, completion: int) -> Usage:
        prompt = len(self.plan.prompt.token_ids)
        return Usage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)


def execute(engine: Engine, runs: Sequence[RowRun]) -> None:
    """Answer all runs together; each run's error is left in ``run.error``."""
    try:
        for run in runs:
            run.start()
        engine.run([row for run in runs for row in run.rows])
    except Exception as error:
        for run in runs:
            run.error = as_chatplan_error(error)
        return
    for run in runs:
        end(engine, run)


def launch(engine: Engine, run: RowRun, done: Callable[[RowRun], None]) -> None:
    """:func:`execute` without waiting: ``done`` is called when the run is over, from another thread."""

    def finish() -> None:
        end(engine, run)
        done(run)

    try:
        run.start()
        slow = run.plan.generation_config.get("prompt_logprobs") is not None
        engine.submit(run.rows, lambda: elsewhere(finish, slow))
    except Exception as error:
        run.error = as_chatplan_error(error)
        done(run)


def elsewhere(work: Callable[[], None], slow: bool) -> None:
    """What ends a run may take its time, and the thread that an engine tells of it in has other rows to see to.

    What is ``slow`` waits for the model, and must not keep other runs waiting.
    """
    try:
        if slow:
            threading.Thread(target=work, name="chatplan-finish", daemon=True).start()
        else:
            _finishing.submit(work)
    except RuntimeError:  # the interpreter is going away
        work()


_finishing = ThreadPoolExecutor(max_workers=4, thread_name_prefix="chatplan-finish")


def end(engine: Engine, run: RowRun) -> None:
    """What follows a run's last token; its error is left in ``run.error``."""
    try:
        run.settle(run.rows) if run.cancelled else run.finish(engine)
    except Exception as error:
        run.error = as_chatplan_error(error)


def as_chatplan_error(error: Exception) -> ChatplanError:
    """Errors of ours as they are; others as an :class:`EngineError` that keeps them as its cause."""
    if isinstance(error, ChatplanError):
        return error
    wrapped = EngineError(f"{type(error).__name__}: {error}")
    wrapped.__cause__ = error
    return wrapped
