"""One served model: the chat, what is under way, and who may come in."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from chatplan.adapters.auth import identify
from chatplan.adapters.auth.quotas import Quotas
from chatplan.adapters.server.limits import check_request
from chatplan.adapters.server.logs import log_access
from chatplan.adapters.server.metrics import Metrics
from chatplan.adapters.server.patience import Patience
from chatplan.adapters.server.record import Record
from chatplan.adapters.server.replies import status_of
from chatplan.adapters.server.settings import ServerSettings
from chatplan.chat import Chat
from chatplan.engine import EngineStats
from chatplan.errors import ChatplanError, OverloadedError, RequestError
from chatplan.principal import Principal
from chatplan.request import ChatCompletionRequest
from chatplan.response import ChatCompletionChunk

__all__ = ["Service"]

log: logging.Logger = logging.getLogger("chatplan.server")

_T = TypeVar("_T")


class Service:
    """What all routes share. Its state is touched in the event loop only, but for what says otherwise.

    Args:
        chat: the chat, or a callable that makes it, called in a thread by :meth:`load`.
    """

    def __init__(self, chat: Chat | Callable[[], Chat], settings: ServerSettings) -> None:
        self.settings = settings
        self.metrics: Metrics = Metrics()
        self.quotas: Quotas = Quotas()
        self.failure: Exception | None = None
        self.created: int = int(time.time())
        self.draining: bool = False
        self.annotate: Callable[[Record], None] = lambda record: None
        self.under_way: dict[str, tuple[Record, Patience]] = {}
        self.accepted: set[Record] = set()
        self._chat = chat if isinstance(chat, Chat) else None
        self._make = None if isinstance(chat, Chat) else chat
        self._planning = ThreadPoolExecutor(settings.planning_threads, "chatplan-planning")
        # Apart, so that a slow issuer of tokens does not keep requests from being planned, nor a schema senders out.
        self._identifying = ThreadPoolExecutor(settings.planning_threads, "chatplan-identifying")
        self.metrics.watch(lambda: self.waiting, lambda: len(self.under_way) - self.waiting, self.stats)

    # --- the model ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Make the chat, unless it was there from the start; a failure is kept, and /health says so."""
        if self._make is None:
            return
        try:
            self._chat = await in_new_thread(self._make)
            log.info("model loaded", extra={"model": self._chat.model.name, "engine": self._chat.engine.name})
        except Exception as error:
            self.failure = error
            log.error("the model cannot be loaded: %s", error, exc_info=not isinstance(error, ChatplanError))

    @property
    def chat(self) -> Chat:
        """The chat.

        Raises:
            OverloadedError: it is not loaded.
        """
        if self._chat is None:
            state = "could not be loaded" if self.failure else "is being loaded"
            raise OverloadedError(f"the model {state}", code="not_ready", retry_after=5)
        return self._chat

    @property
    def request_type(self) -> type[ChatCompletionRequest] | None:
        """The request with the fields of plugins, once the model is loaded."""
        return None if self._chat is None else self._chat.plugins.request_type

    @property
    def asks(self) -> bool:
        """Whether senders are asked for a credential: some plugin has the hook ``authenticate``."""
        if self.settings.no_auth or self._chat is None:
            return False
        return self._chat.plugins.has("authenticate")

    def names(self) -> list[str]:
        """What requests may call the model; the first is in answers."""
        return list(dict.fromkeys([self.chat.model.name, *self.settings.served_model_name]))

    def stats(self) -> EngineStats:
        """How busy the engine is; nothing when there is none yet, or none any more."""
        try:
            return EngineStats() if self._chat is None else self._chat.engine.stats()
        except Exception:  # /health says so; metrics go on
            return EngineStats()

    def check_health(self) -> None:
        """Raises :class:`OverloadedError` unless requests can be answered."""
        if self.draining:
            raise OverloadedError("the server is shutting down", code="shutting_down", retry_after=5)
        try:
            self.chat.engine.stats()
        except ChatplanError:
            raise
        except Exception as error:
            raise OverloadedError("the engine has died", code="engine_dead") from error

    # --- threads -----------------------------------------------------------------------------------------------------

    async def in_thread(self, work: Callable[[], _T]) -> _T:
        """Run what may take its time: asking for credentials, making plans."""
        return await asyncio.get_running_loop().run_in_executor(self._planning, work)

    def close(self) -> None:
        """Give everything back."""
        self._planning.shutdown(wait=False, cancel_futures=True)
        self._identifying.shutdown(wait=False, cancel_futures=True)
        if self._chat is not None and self._make is not None:
            self._chat.close()

    # --- who may come in ---------------------------------------------------------------------------------------------

    async def identify(self, headers: Mapping[str, str], local: bool) -> Principal | None:
        """Who asks; ``None`` when nobody is asked. ``local``: the connection came to a loopback address.

        Raises:
            ChatplanError: as :func:`chatplan.adapters.auth.identify`.
        """
        if self.settings.no_auth or (local and not self.asks):
            return None
        plugins = self.chat.plugins
        return await asyncio.get_running_loop().run_in_executor(self._identifying, lambda: identify(plugins, headers))

    def parse(self, data: dict[str, Any]) -> ChatCompletionRequest:
        """The request in a body, with any of the model's names as the first one.

        Raises:
            RequestError: the body is not valid, or over a limit.
        """
        if data.get("model") in self.settings.served_model_name:
            data = {**data, "model": self.chat.model.name}
        request = self.chat.request(data)
        check_request(request, self.settings)
        return request

    @contextmanager
    def entered(self, record: Record, request: ChatCompletionRequest) -> Iterator[Patience]:
        """The request is under way, and counts for its sender.

        Raises:
            PermissionDeniedError: the sender may not ask this.
            RateLimitError: the sender asks too much; ``OverloadedError`` when all do.
            RequestError: its id is that of another request under way.
        """
        record.request, record.model, record.stream = request, self.chat.model.name, request.stream
        principal = record.principal
        if principal is not None:
            self.quotas.check(principal, self._name_for(principal, request.model), request.priority)
        self._check_room(record)
        patience = Patience(record, self.settings)
        with self.counted(principal):
            self.under_way[record.request_id] = (record, patience)
            try:
                yield patience
            finally:
                del self.under_way[record.request_id]
                self.spend(record, record.completion_tokens)

    @contextmanager
    def counted(self, principal: Principal | None) -> Iterator[None]:
        """The request counts for its sender, if anybody was asked.

        Raises:
            RateLimitError: the sender asks too much.
        """
        if principal is None:
            yield
            return
        self.quotas.enter(principal)
        try:
            yield
        finally:
            self.quotas.leave(principal)

    def spend(self, record: Record, tokens: int | None) -> None:
        """Count tokens for the sender: those of the prompt when it is read, so that many at once do not pass."""
        if record.principal is not None:
            self.quotas.spend(record.principal, tokens or 0)

    def _name_for(self, principal: Principal, asked: str | None) -> str:
        """The name to check: of the model's names, whichever was asked for, one that the credential allows."""
        names = [*self.names(), *self.chat.model.names]
        if asked is not None and asked not in names:
            return asked
        return next((name for name in names if principal.models is None or name in principal.models), names[0])

    def _check_room(self, record: Record) -> None:
        if record.request_id in self.under_way:
            raise RequestError(
                "another request with this id is under way", param="request_id", code="duplicate_request_id"
            )
        if self.waiting >= self.settings.max_queue:
            raise OverloadedError(f"max_queue={self.settings.max_queue} requests are waiting already", retry_after=2)
        if record.stream and self._streams >= self.settings.max_streams:
            raise OverloadedError(f"max_streams={self.settings.max_streams} streams are open already", retry_after=2)

    @property
    def waiting(self) -> int:
        """Requests under way that have no token yet."""
        return sum(record.first_token is None for record, _ in self.under_way.values())

    @property
    def _streams(self) -> int:
        return sum(record.stream for record, _ in self.under_way.values())

    # --- what is told of it -------------------------------------------------------------------------------------------

    def report(self, error: ChatplanError, record: Record) -> None:
        """Note an error. Those of the server itself belong into its log, with their cause."""
        record.code = error.code
        field = re.match(r"\w*", error.param or "")
        # Not what follows, nor a name that is no field: both may be anything that somebody wrote.
        record.param = field[0] if field and field[0] in ChatCompletionRequest.model_fields else None
        if status_of(error) == 500:
            log.error("%s failed: %s", record.path, error, exc_info=error, extra={"request_id": record.request_id})

    def see(self, record: Record, chunk: ChatCompletionChunk) -> None:
        """A piece of an answer came; in any thread."""
        gap = record.see(chunk)
        if gap is not None:
            self.metrics.inter_token.labels(chunk.model).observe(gap)

    def finish(self, record: Record, path: str) -> None:
        """A request is over; ``path`` is that of its route."""
        self.metrics.count(record, path)
        log_access(record)

    # --- the end -----------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no further requests."""
        self.draining = True

    def abort_all(self) -> None:
        """End what is still under way, with an error."""
        for _, patience in list(self.under_way.values()):
            patience.abort(OverloadedError("the server is shutting down", code="shutting_down", retry_after=5))


async def in_new_thread(work: Callable[[], _T]) -> _T:
    """Run ``work`` in a thread that ends with it, and that a process which exits does not wait for.

    OpenMP lets the engine's threads spin only while no others keep teams of their own.
    """
    loop, future = asyncio.get_running_loop(), Future[_T]()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="chatplan-loading", daemon=True).start()
    return await asyncio.wrap_future(future, loop=loop)
