"""A model and its plugins, ready to answer. Every door goes through this."""

from __future__ import annotations

import asyncio
import atexit
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, overload

from chatplan.compiler import check_fields
from chatplan.errors import PluginError, RequestError
from chatplan.explaining import Explanation, explain
from chatplan.folding import fold
from chatplan.manager import Plugins
from chatplan.request import ChatCompletionRequest, parse_request
from chatplan.request_types import without_nulls
from chatplan.response import ChatCompletion, ChatCompletionChunk
from chatplan.stream import Stream

if TYPE_CHECKING:
    from chatplan.engine import Runner
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan
    from chatplan.run import Run

__all__ = ["Chat"]


class Chat:
    """Answers requests with one model.

    Args:
        model: what :meth:`ModelInfo.of` makes of a loaded model.
        plugins, disable: as :class:`Plugins` takes them.
        engine: the name of the engine to run on; ``auto`` lets plugins choose.
        defaults: values for request fields that a request leaves out.
        options: further options for the ``engine`` hook.

    Raises:
        RequestError: a default is no valid value, or nobody answers for its field.
        PluginError: a plugin is wrong, or there is no such engine.
    """

    def __init__(
        self,
        model: ModelInfo,
        *,
        plugins: Plugins | Iterable[Any] = (),
        disable: Collection[str] = (),
        engine: str = "auto",
        defaults: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(plugins, Plugins) and disable:
            raise PluginError("disable has no effect on a ready Plugins object; give it to Plugins")
        self.plugins: Plugins = plugins if isinstance(plugins, Plugins) else Plugins(plugins, disable)
        self.model: ModelInfo = self.plugins.introduce(model)
        self.engine: Runner = self._make_engine({**(options or {}), "engine": engine})
        self.defaults: dict[str, Any] = {}
        self.defaults = self._check_defaults(defaults or {})

    @overload
    def __call__(self, inputs: Any, *, stream: Literal[True], **fields: Any) -> Stream: ...
    @overload
    def __call__(self, inputs: Any, **fields: Any) -> Any: ...

    def __call__(self, inputs: Any, **fields: Any) -> Any:
        """Answer messages, a request (object or dict), or a list of either.

        ``fields`` are fields of the request, for every request of a list. Returns a
        :class:`ChatCompletion`, a list of them for a list, an iterator of them for an iterator of requests, and a
        :class:`Stream` of chunks with ``stream=True``.

        Raises:
            RequestError: naming the field, its value and what is allowed.
        """
        if is_one_request(inputs):
            request = self.request(inputs, **fields)
            return self.stream(request) if request.stream else self.complete(request)
        if fields.get("stream"):
            raise RequestError("streams answer one request at a time", param="stream")
        if isinstance(inputs, (list, tuple)):
            return self.complete_batch(inputs, **fields)
        return self.complete_each(inputs, **fields)

    def request(self, given: Any, **fields: Any) -> ChatCompletionRequest:
        """A valid request of messages, a dict or a request object; ``fields`` win over it, and it over the defaults.

        Raises:
            RequestError: naming the field, its value and what is allowed.
        """
        if isinstance(given, ChatCompletionRequest):
            if not fields and not self.defaults and isinstance(given, self.plugins.request_type):
                return given
            given = {name: getattr(given, name) for name in given.model_fields_set} | (given.model_extra or {})
        elif not isinstance(given, Mapping):
            given = {"messages": given}
        data = without_nulls({**given, **fields})  # null means absent, so it does not hide a default
        return parse_request({**self._defaults_beside(data), **data}, self.plugins.request_type)

    def plan(self, given: Any, **fields: Any) -> GenerationPlan:
        """The plan of a request, as the engine would run it."""
        return self.engine.plan(self.request(given, **fields), self.model, self.plugins)

    def explain(self, given: Any, **fields: Any) -> Explanation:
        """Why the plan of a request is as it is: which plugin turned which field into what."""
        return explain(self.request(given, **fields), self.model, self.plugins, self.engine.plan)

    def complete(self, given: Any, **fields: Any) -> ChatCompletion:
        """The whole answer to one request."""
        return self.complete_batch([given], **fields)[0]

    def complete_batch(self, given: Sequence[Any], **fields: Any) -> list[ChatCompletion]:
        """The answers to several requests, in order, generated together; each is what it would be alone."""
        names = [f"[{position}]" for position in range(len(given))] if len(given) > 1 else [""] * len(given)
        return self._complete(given, fields, names)

    def _complete(self, given: Sequence[Any], fields: Mapping[str, Any], names: Sequence[str]) -> list[ChatCompletion]:
        plans = [self._plan_at(name, item, fields) for name, item in zip(names, given, strict=True)]
        for plan in plans:
            refuse_stream(plan)
        chunks: list[list[ChatCompletionChunk]] = [[] for _ in plans]
        runs = [self.engine.open(plan, self.model, box.append) for plan, box in zip(plans, chunks, strict=True)]
        self._execute(runs)
        for run in runs:
            if run.error is not None:
                raise run.error
        return [fold(box) for box in chunks]

    def complete_each(self, given: Iterable[Any], **fields: Any) -> Iterator[ChatCompletion]:
        """Answers to an endless or lazy supply of requests, in order, taken a batch at a time."""
        supply, done = iter(given), 0
        while batch := list(islice(supply, self.model.settings.batch_size)):
            yield from self._complete(batch, fields, [f"[{done + position}]" for position in range(len(batch))])
            done += len(batch)

    def stream(self, given: Any, **fields: Any) -> Stream:
        """The answer to one request as it is generated. A refused request raises here, not while reading."""
        plan = self.plan(given, **{**fields, "stream": True})
        return Stream(partial(self.start, plan))

    def start(
        self, plan: GenerationPlan, sink: Callable[[ChatCompletionChunk], None], done: Callable[[Run], None]
    ) -> Run:
        """Begin to answer a plan, and return at once.

        The chunks go to ``sink``, and the run to ``done`` after the last one, with ``run.error`` if it failed; both
        are called from other threads. ``run.cancel()`` stops it within a token.
        """
        run = self.engine.open(plan, self.model, sink)
        _running.add(run)

        def over(run: Run) -> None:
            _running.discard(run)
            self._finished(run)
            done(run)

        self.engine.begin(run, over)
        return run

    def start_async(
        self, plan: GenerationPlan, sink: Callable[[ChatCompletionChunk], None]
    ) -> tuple[Run, asyncio.Event]:
        """:meth:`start`, in an event loop: the event is set when the run is over."""
        loop, over = asyncio.get_running_loop(), asyncio.Event()

        def tell(run: Run) -> None:
            with suppress(RuntimeError):  # the event loop is gone, and nobody waits
                loop.call_soon_threadsafe(over.set)

        return self.start(plan, sink, tell), over

    async def acomplete(self, given: Any, **fields: Any) -> ChatCompletion:
        """:meth:`complete` without blocking the event loop; cancelling the task stops generating within a token."""
        # Compiling a constraint may take its time.
        plan = await asyncio.to_thread(lambda: self.plan(given, **fields))
        refuse_stream(plan)
        chunks: list[ChatCompletionChunk] = []
        run, over = self.start_async(plan, chunks.append)
        try:
            await over.wait()
        except asyncio.CancelledError:
            run.cancel()
            raise
        if run.error is not None:
            raise run.error
        return fold(chunks)

    def close(self) -> None:
        """Give back what the engine holds."""
        self.engine.close()

    def _make_engine(self, options: Mapping[str, Any]) -> Runner:
        answer = self.plugins.ask_first("engine", model=self.model, options=options)
        if answer is None:
            raise PluginError(f"no plugin offers the engine {options['engine']!r}")
        engine: Runner = answer[1]
        return engine

    def _check_defaults(self, defaults: Mapping[str, Any]) -> dict[str, Any]:
        example = {"messages": [{"role": "user", "content": ""}], **defaults}
        check_fields(parse_request(example, self.plugins.request_type), self.plugins, self.engine.unsupported)
        return dict(defaults)

    def _defaults_beside(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults, less those that another spelling of the same field in ``data`` replaces."""
        if data.get("max_tokens") is not None or data.get("max_completion_tokens") is not None:
            return {k: v for k, v in self.defaults.items() if k not in ("max_tokens", "max_completion_tokens")}
        return self.defaults

    def _plan_at(self, name: str, given: Any, fields: Mapping[str, Any]) -> GenerationPlan:
        try:
            return self.plan(given, **fields)
        except RequestError as error:
            if name:  # in a list of requests, say which one
                error.param = f"{name}.{error.param}" if error.param else name
            raise

    def _execute(self, runs: Sequence[Run]) -> None:
        self.engine.answer(runs)
        for run in runs:
            self._finished(run)

    def _finished(self, run: Run) -> None:
        usage = None if run.error else run.usage
        self.plugins.notify("request_finished", request=run.plan.request, usage=usage, error=run.error)


def is_one_request(inputs: Any) -> bool:
    """Whether ``inputs`` is a single request: a request object, a dict, or a list of messages."""
    if isinstance(inputs, (ChatCompletionRequest, Mapping, str)):
        return True  # a string is refused as such, not read as a supply of characters
    if not isinstance(inputs, Iterable) or hasattr(inputs, "role"):
        return True  # refused as such, and at once
    first = inputs[0] if isinstance(inputs, (list, tuple)) and inputs else None
    if isinstance(inputs, (list, tuple)) and not inputs:
        return True  # no messages: refused as such
    return (isinstance(first, Mapping) and "role" in first) or hasattr(first, "role")


def refuse_stream(plan: GenerationPlan) -> None:
    """Methods that give whole answers do not quietly drop ``stream=True``."""
    if plan.request.stream:
        raise RequestError("this gives whole answers; stream() gives chunks", param="stream")


_running: set[Run] = set()


@atexit.register
def _stop_all() -> None:
    """A thread inside torch when the interpreter goes away would abort the program."""
    for run in list(_running):
        run.cancel()
    deadline = time.monotonic() + 10
    while _running and time.monotonic() < deadline:
        time.sleep(0.01)
