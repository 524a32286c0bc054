"""The engine ``remote``: whole requests go to servers of the same protocol."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import suppress
from typing import Any, ClassVar

from chatplan.adapters.background import LoopThread, cancel_all
from chatplan.adapters.remote.body import body_of
from chatplan.adapters.remote.pool import Pool
from chatplan.adapters.remote.run import RemoteRun
from chatplan.adapters.remote.server import Server
from chatplan.adapters.remote.tables import Table
from chatplan.compiler import check_fields
from chatplan.engine import EngineStats, Runner
from chatplan.errors import EngineError, RequestError
from chatplan.manager import Plugins
from chatplan.model import ModelInfo
from chatplan.plan import Effect, GenerationPlan, Prompt
from chatplan.request import ChatCompletionRequest
from chatplan.response import ChatCompletionChunk
from chatplan.run import elsewhere

__all__ = ["RemoteRunner"]

_AT_ONCE = 64


class RemoteRunner(Runner):
    """Forwards requests. Nothing is rendered, compiled or generated here.

    Args:
        servers: where to, all of one kind and with the same model.
        table: what they honour.
        timeout: the most seconds for one answer, with all tries.
        max_retries: further tries when all servers were tried; none once a part of the answer came.
        thread: the event loop in which requests are under way.
    """

    name: ClassVar[str] = "remote"

    def __init__(
        self, servers: Sequence[Server], table: Table, timeout: float, max_retries: int, thread: LoopThread
    ) -> None:
        self.table = table
        self.unsupported: Mapping[str, str] = dict(table.unsupported)  # type: ignore[misc]
        self._pool = Pool(servers)
        self._timeout, self._max_retries = timeout, max_retries
        self._thread = thread

    def plan(self, request: ChatCompletionRequest, model: ModelInfo, plugins: Plugins) -> GenerationPlan:
        """A plan without a prompt: its effects are the body that is sent."""
        check_fields(request, plugins, self.unsupported)
        given = "request_id" in request.model_fields_set
        request_id = request.request_id if given else uuid.uuid4().hex
        if not (request_id.isascii() and request_id.isprintable()):
            raise RequestError("should be printable ASCII characters, as a header holds it", param="request_id")
        name = request.model or model.name
        body = body_of(request, self.table, name)
        return GenerationPlan(
            request=request,
            request_id=request_id,
            model=name,
            prompt=Prompt(()),
            template_args={},
            generation_config={},
            processors=(),
            stopping_criteria=(),
            output_stages=(),
            effects=tuple(Effect(self.name, "forward", wire, value) for wire, value in body.items()),
        )

    def open(self, plan: GenerationPlan, model: ModelInfo, sink: Callable[[ChatCompletionChunk], None]) -> RemoteRun:
        return RemoteRun(plan, sink, self._thread, self.table.id_field)

    def answer(self, runs: Sequence[RemoteRun]) -> None:
        work = self._answer(runs[0]) if len(runs) == 1 else self._answer_all(runs)
        future = self._thread.submit(work)
        try:
            future.result()
        except BaseException:  # such as KeyboardInterrupt, which only this thread gets
            future.cancel()
            raise

    def begin(self, run: RemoteRun, done: Callable[[RemoteRun], None]) -> None:
        def over(_: Any) -> None:
            elsewhere(lambda: done(run), slow=False)

        try:
            self._thread.submit(self._answer(run)).add_done_callback(over)
        except RuntimeError as error:
            run.error = EngineError(str(error), code="closed")
            over(None)

    def stats(self) -> EngineStats:
        return EngineStats(running=sum(server.running for server in self._pool.servers))

    def close(self) -> None:
        """End what is under way, and the connections."""
        with suppress(RuntimeError, FutureTimeout):
            self._thread.submit(self._close()).result(5)
        self._thread.close()

    async def _answer(self, run: RemoteRun) -> None:
        await run.answer(self._pool, self._timeout, self._max_retries)

    async def _answer_all(self, runs: Sequence[RemoteRun]) -> None:
        room = asyncio.Semaphore(_AT_ONCE)

        async def one(run: RemoteRun) -> None:
            async with room:
                await self._answer(run)

        await asyncio.gather(*map(one, runs))

    async def _close(self) -> None:
        await cancel_all()
        for server in self._pool.servers:
            await server.close()
