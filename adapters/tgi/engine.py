"""Runs the rows of a plan on a TGI server: one request for each, and its tokens pushed as they come."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import aclosing, suppress
from itertools import groupby
from typing import Any, ClassVar

from chatplan.adapters.background import LoopThread, cancel_all
from chatplan.adapters.tgi.clients import Client
from chatplan.adapters.tgi.errors import Refusal, passes, translated
from chatplan.adapters.tgi.parameters import Limits, Parameters, parameters_of, seeded, text_of
from chatplan.capabilities import UNSUPPORTED
from chatplan.engine import Engine, EngineStats
from chatplan.engine.base import PromptLogprobs
from chatplan.errors import EngineError
from chatplan.model import ModelInfo
from chatplan.output import TokenScores
from chatplan.plan import GenerationPlan
from chatplan.response import LOWEST_LOGPROB, PromptLogprob
from chatplan.row import Row

__all__ = ["TGIEngine"]

_LONGEST_PAUSE = 30.0


class TGIEngine(Engine):
    """A TGI server.

    Args:
        model: tokenizer and configuration of the checkpoint that the server runs.
        client: how to speak to it.
        limits: what it allows.
        timeout: the most seconds for one answer, with all tries.
        retries: further tries while the server is overloaded or away; none once a token came.
    """

    name: ClassVar[str] = "tgi"
    unsupported: ClassVar[Mapping[str, str]] = UNSUPPORTED["tgi"]

    def __init__(
        self, model: ModelInfo, client: Client, limits: Limits, timeout: float = 600.0, retries: int = 3
    ) -> None:
        self.model: ModelInfo = model
        self.client: Client = client
        self.limits: Limits = limits
        self.timeout: float = timeout
        self.retries: int = retries
        self._thread = LoopThread("chatplan-tgi")
        self._running = 0

    def check(self, plan: GenerationPlan) -> None:
        self._wire(plan)

    def run(self, rows: Sequence[Row]) -> None:
        future = self._thread.submit(self._all(rows))
        try:
            future.result()
        except CancelledError:
            end_closed(rows)
        except BaseException:  # such as KeyboardInterrupt, which only this thread gets
            future.cancel()
            raise

    def submit(self, rows: Sequence[Row], done: Callable[[], None]) -> None:
        def over(_: object) -> None:
            end_closed(rows)
            done()

        self._thread.submit(self._all(rows)).add_done_callback(over)

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        """One more request. The server says how likely each token was, and nothing of others."""
        text, sent = self._wire(plan)
        only = {"do_sample": False, "max_new_tokens": 1, "details": True, "decoder_input_details": True}
        parameters = {**only, **({"truncate": sent["truncate"]} if "truncate" in sent else {})}
        try:
            details = self._thread.submit(asyncio.wait_for(self._whole(text, parameters), self.timeout)).result()
        except Exception as error:
            raise translated(error) from error
        if len(details.prefill) != len(plan.prompt.token_ids):
            raise EngineError(f"the TGI server tells of {len(details.prefill)} prompt tokens")
        return [None, *({str(token.id): self._entry(token)} for token in details.prefill[1:])]

    def stats(self) -> EngineStats:
        """Rows that wait for the server or are answered by it."""
        return EngineStats(running=self._running)

    def close(self) -> None:
        """End what is under way, and the connections."""
        with suppress(RuntimeError, FutureTimeout):  # it is closed already, or takes too long
            self._thread.submit(self._close()).result(5)
        self._thread.close()

    def _wire(self, plan: GenerationPlan) -> tuple[str, Parameters]:
        """What is sent: the prompt, and TGI's parameters."""
        parameters = parameters_of(plan, self.limits)
        return text_of(plan, self.model), parameters

    # --- in the event loop -------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        await cancel_all()
        await self.client.close()

    async def _all(self, rows: Sequence[Row]) -> None:
        groups = [list(rows) for _, rows in groupby(rows, key=lambda row: id(row.plan))]
        await asyncio.gather(*(self._plan(group) for group in groups))

    async def _plan(self, rows: list[Row]) -> None:
        plan = rows[0].plan
        try:
            text, parameters = await asyncio.to_thread(self._wire, plan)
        except Exception as error:
            for row in rows:
                row.fail(error)
            return
        if plan.samples > plan.choices:
            await self._guarded(rows, self._best(rows, text, parameters))
            return
        each = [(row, seeded(parameters, plan, row.index)) for row in rows]
        await asyncio.gather(*(self._guarded([row], self._stream(row, text, own)) for row, own in each))

    async def _guarded(self, rows: list[Row], work: Any) -> None:
        """What goes wrong is the error of these rows alone; cancelling any of them ends the request at once."""
        task = asyncio.ensure_future(work)

        def cancel(row: Row) -> None:
            self._thread.call(task.cancel)

        for row in rows:
            row.on_cancel = cancel
        self._running += len(rows)
        try:
            if any(row.cancelled for row in rows):
                task.cancel()
            await asyncio.wait_for(task, self.timeout)
        except asyncio.CancelledError:
            end_closed(rows)
        except Exception as error:
            for row in rows:
                if not row.cancelled:  # closing a connection may fail as well
                    row.fail(translated(error))
        finally:
            self._running -= len(rows)
            for row in rows:
                row.on_cancel = None

    async def _stream(self, row: Row, text: str, parameters: Parameters) -> None:
        for attempt in range(self.retries + 1):
            try:
                async with aclosing(self.client.stream(text, parameters)) as events:  # type: ignore[type-var]
                    async for event in events:
                        if take(row, event.token, event.top_tokens, event.details):
                            return
                raise Refusal("the stream ended before the answer did", "incomplete_generation")
            except Exception as error:
                if row.output_ids or attempt == self.retries or not passes(error):
                    raise
                await asyncio.sleep(pause(attempt, error))

    async def _best(self, rows: list[Row], text: str, parameters: Parameters) -> None:
        """The server draws all samples in one request. Which one is the best is found out here."""
        details = await self._whole(text, parameters)
        samples = [details, *(details.best_of_sequences or ())]
        if len(samples) != len(rows):
            raise Refusal(f"{len(samples)} samples came, not {len(rows)}", "generation")
        for row, sample in zip(rows, samples, strict=True):
            tops = sample.top_tokens or [None] * len(sample.tokens)
            for at, (token, top) in enumerate(zip(sample.tokens, tops, strict=True), start=1):
                if take(row, token, top, sample if at == len(sample.tokens) else None):
                    break

    async def _whole(self, text: str, parameters: Parameters) -> Any:
        for attempt in range(self.retries + 1):
            try:
                return await self.client.whole(text, parameters)
            except Exception as error:
                if attempt == self.retries or not passes(error):
                    raise
                await asyncio.sleep(pause(attempt, error))
        raise AssertionError

    def _entry(self, token: Any) -> PromptLogprob:
        return PromptLogprob(logprob=logprob_of(token), rank=None, decoded_token=self.model.token_text(token.id))


def end_closed(rows: Sequence[Row]) -> None:
    """Rows that nobody will finish any more, because the engine was closed."""
    for row in rows:
        if not row.finished:
            row.fail(EngineError("the engine was closed", code="closed"))


def take(row: Row, token: Any, top: Sequence[Any] | None, details: Any) -> bool:
    """Push one token of the server; returns whether the row is over."""
    likeliest = tuple((other.id, logprob_of(other)) for other in top or ())
    rank = next((at for at, (i, _) in enumerate(likeliest, start=1) if i == token.id), len(likeliest) + 1)
    row.scores = TokenScores(logprob_of(token), rank, likeliest)
    row.cumulative_logprob += logprob_of(token)
    over = row.push(token.id)
    if details is not None and not over:  # by rules that only the server knows
        row.finish("length" if details.finish_reason == "length" else "stop")
    return row.finished


def logprob_of(token: Any) -> float:
    """JSON has no infinities, and the server leaves out what it cannot say."""
    return LOWEST_LOGPROB if token.logprob is None else max(float(token.logprob), LOWEST_LOGPROB)


def pause(attempt: int, error: Exception) -> float:
    """Seconds before the next try: what the server asks for, else twice as long each time, and never all at once."""
    asked = getattr(error, "retry_after", None)
    return float(min(asked if asked is not None else 0.25 * 2**attempt * random.uniform(0.5, 1.5), _LONGEST_PAUSE))
