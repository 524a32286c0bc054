"""One request on its way to a server: tries, the deadline, and the chunks that come back."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

from chatplan.adapters.background import LoopThread
from chatplan.adapters.remote.answers import Reader
from chatplan.adapters.remote.failures import passes, retry_after, translated
from chatplan.adapters.remote.pool import Pool
from chatplan.adapters.remote.server import Server
from chatplan.errors import ChatplanError, DeadlineError, EngineError
from chatplan.guided.wishes import wished
from chatplan.plan import GenerationPlan
from chatplan.response import ChatCompletionChunk, Usage
from chatplan.run import Run, as_chatplan_error

__all__ = ["RemoteRun"]

log: logging.Logger = logging.getLogger("chatplan.remote")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0
_LONGEST_WAIT = 20.0  # what a server says beyond it is left to the caller
_CONSTRAINT_NAMES = ("structured_outputs", "response_format", "json_schema", "regex", "ebnf", "grammar")


class RemoteRun(Run):
    """A run that a server answers. It is worked on in the engine's event loop.

    Args:
        id_field: what the server calls the request's id; "" when it knows none.
    """

    error: ChatplanError | None
    usage: Usage | None

    def __init__(
        self,
        plan: GenerationPlan,
        sink: Callable[[ChatCompletionChunk], None],
        thread: LoopThread,
        id_field: str = "",
    ) -> None:
        super().__init__(plan, sink)
        self._body = {effect.name: effect.value for effect in plan.effects}
        if id_field:
            self._body[id_field] = plan.request_id
        self._thread = thread
        self._reader = Reader(plan, self.created)
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = self._delivered = False

    def cancel(self) -> None:
        self._cancelled = True
        self._thread.call(lambda: self._task.cancel() if self._task is not None else None)

    @property
    def tokens(self) -> tuple[int, int]:
        """As the server counts them; until it says so, the answer's are the pieces that came."""
        usage = self._reader.usage
        return (usage.prompt_tokens, usage.completion_tokens) if usage is not None else (0, self._reader.pieces)

    async def answer(self, pool: Pool, timeout: float, max_retries: int) -> None:
        """Ask until there is an answer; what it failed with is left in ``error``."""
        self._task = asyncio.current_task()
        try:
            if not self._cancelled:
                await asyncio.wait_for(self._ask_until(pool, len(pool.servers) + max_retries), timeout)
        except (TimeoutError, asyncio.TimeoutError):
            self.error = DeadlineError(f"there is no answer after {timeout:g} seconds")
        except asyncio.CancelledError:
            if not self._cancelled:
                self.error = EngineError("the engine was closed", code="closed")
        except Exception as error:
            self.error = self._in_our_words(as_chatplan_error(error))
        finally:
            self.usage = self._reader.usage
            self._task = None

    async def _ask_until(self, pool: Pool, tries: int) -> None:
        """Try one server after the other; when all were tried, wait and begin anew."""
        tried: list[Server] = []
        for left in range(tries - 1, -1, -1):
            server = pool.choose(tried)
            try:
                with server.asked():
                    await self._ask(server)
                server.answered()
                return
            except ChatplanError:  # it did answer
                raise
            except Exception as error:
                wait = retry_after(error)
                if passes(error):
                    server.failed(wait)
                    log.warning("%s: %s", server.url, error.__cause__ or error)
                if not passes(error) or self._delivered or not left or (wait or 0.0) > _LONGEST_WAIT:
                    raise translated(error) from error
            tried.append(server)
            if len(tried) == len(pool.servers):
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries - left - len(tried)))
                await asyncio.sleep(max(wait or 0.0, pause) * random.uniform(1.0, 1.25))
                tried = []

    async def _ask(self, server: Server) -> None:
        if not self.plan.request.stream:
            for chunk in self._reader.whole(await server.ask(self._body, self.plan.request_id)):
                self._deliver(chunk)
            return
        stream = await server.stream(self._body, self.plan.request_id)
        async with stream:
            await self._read(stream)

    async def _read(self, stream: AsyncIterator[Any]) -> None:
        async for data in stream:
            chunk = self._reader.piece(data)
            if chunk is not None:
                self._deliver(chunk)
        for chunk in self._reader.end():
            self._deliver(chunk)

    def _deliver(self, chunk: ChatCompletionChunk) -> None:
        self._delivered = True
        self._sink(chunk)

    def _in_our_words(self, error: ChatplanError) -> ChatplanError:
        """The server may know a constraint by another name than the request."""
        root = re.match(r"\w*", error.param or "")
        if root and root[0] in _CONSTRAINT_NAMES and root[0] not in self.plan.request.model_fields_set:
            found = wished(self.plan.request)
            error.param = error.param if found is None else found.param
        return error
