"""From the lines of a batch to the lines of its answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from chatplan.adapters.batch.lines import Line, output_line
from chatplan.adapters.batch.options import Options
from chatplan.chat import Chat, refuse_stream
from chatplan.engine import Engine
from chatplan.errors import ChatplanError, EngineError
from chatplan.folding import fold
from chatplan.response import ChatCompletion, ChatCompletionChunk
from chatplan.run import as_chatplan_error

if TYPE_CHECKING:
    from chatplan.plan import GenerationPlan
    from chatplan.run import Run

__all__ = ["Answering"]

Answer: TypeAlias = "Future[ChatCompletion]"
Batch = tuple[int, Sequence[Line]]


@dataclass(frozen=True)
class Answering:
    """Answers the lines of a file with one model; ``created`` is the time that answers bear."""

    chat: Chat
    options: Options
    created: int

    def answer(self, batches: Iterable[Batch]) -> Iterator[tuple[int, list[str]]]:
        """The answers to each batch, under its number.

        Raises:
            EngineError: the model answers nothing, not even a request of one token.
        """
        waiting: dict[int, tuple[Sequence[Line], list[Answer]]] = {}
        for number, lines in batches:
            waiting[number] = lines, self._begin(lines)
            self._make_room([answer for _, answers in waiting.values() for answer in answers])
            for ready in [at for at, (_, answers) in waiting.items() if all(answer.done() for answer in answers)]:
                yield ready, self._written(*waiting.pop(ready))
        for number in list(waiting):
            yield number, self._written(*waiting.pop(number))

    def _begin(self, lines: Sequence[Line]) -> list[Answer]:
        """The answers to come. An engine that takes requests at any step is given each; others answer the batch now."""
        answers: list[Answer] = [Future() for _ in lines]
        planned: list[tuple[GenerationPlan, Answer]] = []
        for line, answer in zip(lines, answers, strict=True):
            try:
                planned.append((self._plan(line), answer))
            except Exception as error:
                answer.set_exception(as_chatplan_error(error))
        if takes_any_time(self.chat):
            for plan, answer in planned:
                self._start(plan, answer)
        else:
            self._together(planned)
        return answers

    def _plan(self, line: Line) -> GenerationPlan:
        """With numbers made of the line in place of random ones, so that a second try gives the same answer."""
        request = self.chat.request(line.entry.body)
        plan = self.chat.plan(request)
        refuse_stream(plan)
        if "request_id" not in request.model_fields_set:
            plan = replace(plan, request_id=request_id(line))
        if plan.generation_config.get("seed") is None:
            seed = int(line.derive("seed")[:15], 16)
            plan = replace(plan, generation_config={**plan.generation_config, "seed": seed})
        return plan

    def _together(self, planned: Sequence[tuple[GenerationPlan, Answer]]) -> None:
        """Answer requests in one go."""
        chunks: list[list[ChatCompletionChunk]] = [[] for _ in planned]
        engine, model = self.chat.engine, self.chat.model
        runs = [engine.open(plan, model, box.append) for (plan, _), box in zip(planned, chunks, strict=True)]
        engine.answer(runs)
        for run, box, (_, answer) in zip(runs, chunks, planned, strict=True):
            usage = None if run.error else run.usage
            self.chat.plugins.notify("request_finished", request=run.plan.request, usage=usage, error=run.error)
            settle(answer, run, box)

    def _start(self, plan: GenerationPlan, answer: Answer) -> None:
        chunks: list[ChatCompletionChunk] = []
        self.chat.start(plan, chunks.append, lambda run: settle(answer, run, chunks))

    def _make_room(self, answers: Sequence[Answer]) -> None:
        """Wait until the engine has less than a batch more than it can run at once."""
        settings = self.chat.model.settings
        running = [answer for answer in answers if not answer.done()]
        while len(running) >= settings.max_num_seqs + settings.batch_size:
            running = list(wait(running, return_when=FIRST_COMPLETED).not_done)

    def _written(self, lines: Sequence[Line], answers: Sequence[Answer]) -> list[str]:
        wait(answers)
        tried = [self._once_more(line, answer) for line, answer in zip(lines, answers, strict=True)]
        failed = [answer.exception() for answer in tried if isinstance(answer.exception(), EngineError)]
        if failed and all(answer.exception() for answer in tried) and not self._alive():
            where = f"lines {lines[0].number} to {lines[-1].number}"
            raise EngineError(f"no request of {where} was answered, the first failed with: {failed[0]}") from failed[0]
        return [self._line(line, answer) for line, answer in zip(lines, tried, strict=True)]

    def _alive(self) -> bool:
        """Whether the model answers anything."""
        plain: Answer = Future()
        try:
            self._together([(self.chat.plan([{"role": "user", "content": "Hi"}], max_tokens=1), plain)])
        except Exception:
            return False
        return plain.exception() is None

    def _once_more(self, line: Line, answer: Answer) -> Answer:
        """A request that failed beside others gets a try alone: there is more memory, and no bad neighbour."""
        if not isinstance(answer.exception(), EngineError):
            return answer
        second: Answer = Future()
        try:
            self._together([(self._plan(line), second)])
        except Exception as error:
            second.set_exception(as_chatplan_error(error))
        return second

    def _line(self, line: Line, answer: Answer) -> str:
        error = answer.exception()
        if isinstance(error, ChatplanError):
            given = line.entry.body.get("request_id")
            own = given if isinstance(given, str) and given else request_id(line)
            return self._output(line, own, error.status, error.to_dict())
        completion = answer.result()
        completion.created = self.created
        name_calls(completion)
        return self._output(line, completion.id.removeprefix("chatcmpl-"), 200, completion.to_dict())

    def _output(self, line: Line, request: str, status: int, body: dict[str, object]) -> str:
        return output_line(line, self.options.line_id(line), request, status, body)


def takes_any_time(chat: Chat) -> bool:
    """Whether the engine runs requests together that come one by one."""
    engine = chat.engine
    return not isinstance(engine, Engine) or type(engine).submit is not Engine.submit


def settle(answer: Answer, run: Run, chunks: Sequence[ChatCompletionChunk]) -> None:
    """Give a run's outcome to those who wait for it."""
    try:
        if run.error is not None:
            raise run.error
        answer.set_result(fold(chunks))
    except Exception as error:
        answer.set_exception(as_chatplan_error(error))


def request_id(line: Line) -> str:
    """The id of a request that was not given one."""
    return line.derive("request")


def name_calls(completion: ChatCompletion) -> None:
    """Ids of tool calls are random; here they follow from the answer's."""
    for choice in completion.choices:
        for at, call in enumerate(choice.message.tool_calls):
            call.id = f"chatcmpl-tool-{completion.id.removeprefix('chatcmpl-')}-{choice.index}-{at}"
