"""A run: from the steps of its rows to the chunks of an answer, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
from waiting import SECONDS, wait_until

from chatplan.engine.base import Engine, PromptLogprobs
from chatplan.errors import ChatplanError, EngineError, RequestError
from chatplan.output import OutputStage, StageState, Step
from chatplan.plan import GenerationPlan, OutputOrder, Prompt
from chatplan.request import parse_request
from chatplan.response import ChatCompletionChunk, PromptLogprob, TokenLogprob, ToolCallDelta, Usage
from chatplan.row import Row
from chatplan.run import RowRun, execute, launch
from chatplan.standin import stand_in

EOS = 0


@dataclass(frozen=True)
class Marks(OutputStage):
    """Letters are content; other tokens say by their number what a step carries."""

    order: ClassVar[OutputOrder] = OutputOrder.DETOKENIZE

    def open(self, row: Row) -> StageState:
        return _Marks()


class _Marks(StageState):
    def feed(self, step: Step) -> None:
        (token,) = step.token_ids
        if token >= 65:
            step.text = chr(token)
        elif token == 1:
            step.reasoning = "hm"
        elif token == 2:
            step.tool_calls = [ToolCallDelta(index=0, id="t")]
        elif token == 3:
            step.logprobs = [TokenLogprob(token="x", logprob=-1)]
        elif token == 4:
            step.show_token_ids = True
        elif token == 5:
            step.finish_reason, step.stop_reason = "stop", "!"


class Scripted(Engine):
    """Pushes its script to each row, token by token; may fail."""

    name = "scripted"

    def __init__(self, *scripts: Sequence[int], error: Exception | None = None) -> None:
        self.scripts, self.error = scripts, error
        self.scored: list[GenerationPlan] = []
        self.threads: list[str] = []
        self.scores: list[float] = []

    def run(self, rows: Sequence[Row]) -> None:
        if self.error is not None:
            raise self.error
        for at, row in enumerate(rows):
            for token in self.scripts[at % len(self.scripts)]:
                row.push(token)
        for row, score in zip(rows, self.scores, strict=False):
            row.cumulative_logprob = score

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        self.scored.append(plan)
        self.threads.append(threading.current_thread().name)
        return [None, {"8": PromptLogprob(logprob=-1)}]


def planned(config: dict[str, Any] | None = None, prompt: Prompt | None = None, **fields: Any) -> GenerationPlan:
    return GenerationPlan(
        request=parse_request({"messages": [{"role": "user", "content": "Hi"}], **fields}),
        request_id="x",
        model="some/model",
        prompt=prompt or Prompt((7, 8)),
        template_args={},
        generation_config={"max_new_tokens": 10, "eos_token_id": [EOS], **(config or {})},
        processors=(),
        stopping_criteria=(),
        output_stages=(Marks(),),
    )


def run_of(plan: GenerationPlan) -> tuple[RowRun, list[ChatCompletionChunk]]:
    chunks: list[ChatCompletionChunk] = []
    return RowRun(plan, stand_in(), chunks.append), chunks


def answered(engine: Engine, plan: GenerationPlan) -> tuple[RowRun, list[dict[str, Any]]]:
    """The run, and what its chunks say beside their identity."""
    run, chunks = run_of(plan)
    engine.answer([run])
    said = [chunk.to_dict() for chunk in chunks]
    identity = {"id": "chatcmpl-x", "object": "chat.completion.chunk", "created": run.created, "model": "some/model"}
    assert all(identity.items() <= each.items() for each in said)
    return run, [{key: value for key, value in each.items() if key not in identity} for each in said]


def choice(index: int = 0, delta: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta or {}, "logprobs": None, "finish_reason": None, **more}


def contents(said: Sequence[dict[str, Any]]) -> list[tuple[int, str]]:
    """The texts in their order, each with its choice."""
    deltas = [(each["index"], each["delta"].get("content")) for chunk in said for each in chunk["choices"]]
    return [(index, text) for index, text in deltas if text]


# --- chunks -----------------------------------------------------------------------------------------------------------


def test_the_chunks_of_an_answer() -> None:
    run, said = answered(Scripted([65, 66, EOS]), planned())
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "prompt_tokens_details": None}
    assert said == [
        {"choices": [choice(delta={"role": "assistant", "content": ""})]},
        {"choices": [choice(delta={"content": "A"})]},
        {"choices": [choice(delta={"content": "B"})]},
        {"choices": [choice(finish_reason="stop", stop_reason=None)]},
        {"choices": [], "usage": usage},
    ]
    assert run.usage == Usage(prompt_tokens=2, completion_tokens=3, total_tokens=5)
    assert run.error is None
    assert run.tokens == (2, 3)


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (65, {"delta": {"content": "A"}}),
        (1, {"delta": {"reasoning_content": "hm"}}),
        (2, {"delta": {"tool_calls": [{"index": 0, "id": "t"}]}}),
        (3, {"logprobs": {"content": [{"token": "x", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}}),
        (4, {"token_ids": [4]}),
        (5, {"finish_reason": "stop", "stop_reason": "!"}),
        (6, None),  # a step that shows the reader nothing makes no chunk
    ],
)
def test_what_a_step_carries_is_in_its_chunk(token: int, shown: dict[str, Any] | None) -> None:
    _, said = answered(Scripted([token, EOS]), planned())
    middle = said[1:-1] if token == 5 else said[1:-2]
    assert middle == ([] if shown is None else [{"choices": [{**choice(), **shown}]}])


def test_every_choice_begins_with_its_role_and_the_echo() -> None:
    prompt = Prompt((7, 8), role="user", echo="Well,")
    _, said = answered(Scripted([EOS]), planned({"num_return_sequences": 2}, prompt))
    beginning = [part for index in (0, 1) for part in ((index, {"role": "user", "content": ""}),
                                                       (index, {"content": "Well,"}))]  # fmt: skip
    assert said[:4] == [{"choices": [choice(index, delta)]} for index, delta in beginning]


def test_prompt_token_ids_come_with_the_role_if_token_ids_are_asked_for() -> None:
    _, said = answered(Scripted([65, EOS]), planned(return_token_ids=True))
    assert [each.get("prompt_token_ids") for each in said] == [[7, 8], *[None] * (len(said) - 1)]


def test_running_counts_are_those_of_the_choice() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    plan = planned({"num_return_sequences": 2}, stream=True, stream_options=options)
    _, said = answered(Scripted([65, 66, 67, EOS], [68, EOS]), plan)
    counts = [
        (chunk["choices"][0]["index"] if chunk["choices"] else None, chunk["usage"]["completion_tokens"],
         chunk["usage"]["total_tokens"])
        for chunk in said
    ]  # fmt: skip
    rows = [(0, 1, 3), (0, 2, 4), (0, 3, 5), (0, 4, 6), (1, 1, 3), (1, 2, 4)]
    assert counts == [(0, 0, 2), (1, 0, 2), *rows, (None, 6, 8)]


def test_without_being_asked_for_running_counts_are_not_there() -> None:
    plan = planned(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": False})
    _, said = answered(Scripted([65, EOS]), plan)
    assert ["usage" in chunk for chunk in said] == [False] * (len(said) - 1) + [True]


# --- the best of several ----------------------------------------------------------------------------------------------


def test_the_likeliest_of_several_are_answered_best_first() -> None:
    engine = Scripted([65, EOS], [66, 66, EOS], [67, EOS], [68, 68, 68, EOS])
    engine.scores = [-5.0, -1.0, -9.0, -2.0]
    run, said = answered(engine, planned({"num_return_sequences": 2, "num_samples": 4}))
    assert contents(said) == [(0, "B"), (0, "B"), (1, "D"), (1, "D"), (1, "D")]
    assert [each["index"] for chunk in said[:2] for each in chunk["choices"]] == [0, 1]
    assert run.usage is not None
    assert run.usage.completion_tokens == 3 + 4  # the others are not answered
    assert run.tokens == (2, 2 + 3 + 2 + 4)


def test_of_equals_the_first_is_the_best() -> None:
    engine = Scripted([65, EOS], [66, EOS], [67, EOS])
    engine.scores = [-2.0, -1.0, -1.0]
    _, said = answered(engine, planned({"num_samples": 3}))
    assert contents(said) == [(0, "B")]


def test_nothing_but_the_role_is_said_before_the_best_is_known() -> None:
    run, chunks = run_of(planned({"num_samples": 2}))
    run.start()
    for row in run.rows:
        row.push(65)
        row.push(EOS)
    assert len(run.rows) == 2
    assert [each.delta.role for chunk in chunks for each in chunk.choices] == ["assistant"]
    run.finish(Scripted())
    assert [each.delta.content for chunk in chunks for each in chunk.choices] == ["", "A", None]


def test_choices_that_are_all_answered_wait_for_nothing() -> None:
    run, chunks = run_of(planned({"num_return_sequences": 2, "num_samples": 2}))
    run.rows[1].push(65)
    assert [(each.index, each.delta.content) for chunk in chunks for each in chunk.choices] == [(1, "A")]


# --- log-probabilities of the prompt ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", [0, 2])
def test_the_prompts_log_probabilities_come_with_the_usage(wanted: int) -> None:
    engine, plan = Scripted([EOS]), planned({"prompt_logprobs": wanted})
    _, said = answered(engine, plan)
    assert engine.scored == [plan]
    assert said[-1]["prompt_logprobs"] == [None, {"8": {"logprob": -1.0, "rank": None, "decoded_token": None}}]
    assert all("prompt_logprobs" not in chunk for chunk in said[:-1])


def test_nobody_scores_a_prompt_unasked() -> None:
    engine = Scripted([EOS])
    answered(engine, planned({"prompt_logprobs": None}))
    assert engine.scored == []


# --- draws ------------------------------------------------------------------------------------------------------------


def test_each_row_draws_from_a_stream_of_its_own_of_the_requests_seed() -> None:
    rows = run_of(planned({"num_return_sequences": 3, "seed": 5}))[0].rows
    again = run_of(planned({"num_return_sequences": 3, "seed": 5}))[0].rows
    other = run_of(planned({"num_return_sequences": 3, "seed": 6}))[0].rows
    numbers = [[row.draws.at(0) for row in each if row.draws is not None] for each in (rows, again, other)]
    assert [row.index for row in rows] == [0, 1, 2]
    assert numbers[0] == numbers[1]
    assert len({*numbers[0], *numbers[2]}) == 6


# --- leaving ----------------------------------------------------------------------------------------------------------


def test_a_cancelled_run_counts_what_it_wrote_and_says_no_more() -> None:
    run, chunks = run_of(planned({"num_return_sequences": 2, "prompt_logprobs": 1}))
    run.rows[0].push(65)
    run.cancel()
    assert [row.cancelled for row in run.rows] == [True, True]
    assert run.cancelled
    count, engine = len(chunks), Scripted([66])
    engine.answer([run])
    assert run.usage == Usage(prompt_tokens=2, completion_tokens=1, total_tokens=3)
    assert all(chunk.usage is None for chunk in chunks)
    assert [each.delta.content for chunk in chunks[count:] for each in chunk.choices] == ["", ""]  # the roles
    assert engine.scored == []


def test_a_run_that_was_over_or_failed_was_not_cancelled() -> None:
    over, _ = run_of(planned())
    over.rows[0].push(EOS)
    over.cancel()
    assert not over.cancelled
    failed, _ = run_of(planned({"num_return_sequences": 2}))
    failed.rows[0].fail(ValueError("no"))
    failed.cancel()
    assert not failed.cancelled
    assert not run_of(planned())[0].cancelled


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_the_engine_raises_is_the_error_of_each_run() -> None:
    runs = [run_of(planned())[0] for _ in range(2)]
    broken = ValueError("out of order")
    execute(Scripted(error=broken), runs)
    for run in runs:
        assert isinstance(run.error, EngineError)
        assert str(run.error) == "ValueError: out of order"
        assert run.error.__cause__ is broken
        assert run.usage is None


def test_an_error_of_ours_stays_as_it_is() -> None:
    refused = RequestError("too odd", param="messages")
    run, _ = run_of(planned())
    execute(Scripted(error=refused), [run])
    assert run.error is refused


def test_what_a_row_failed_with_is_its_runs_error_alone() -> None:
    runs = [run_of(planned({"num_return_sequences": 2}))[0] for _ in range(3)]
    runs[1].rows[1].fail(ValueError("no"))
    execute(Scripted([65, EOS]), runs)
    assert [run.error and str(run.error) for run in runs] == [None, "ValueError: no", None]
    assert [run.usage and run.usage.completion_tokens for run in runs] == [4, None, 4]


@pytest.mark.parametrize("wanted", [None, 1])
def test_a_run_that_is_begun_is_over_once_and_elsewhere(wanted: int | None) -> None:
    engine, here = Scripted([65, EOS]), threading.current_thread()
    run, chunks = run_of(planned({"prompt_logprobs": wanted}))
    over: list[tuple[RowRun, threading.Thread]] = []
    ended = threading.Event()

    def done(ended_run: RowRun) -> None:
        over.append((ended_run, threading.current_thread()))
        ended.set()

    launch(engine, run, done)
    assert ended.wait(SECONDS)
    ((same, thread),) = over
    assert same is run
    assert thread is not here
    assert chunks[-1].usage == run.usage is not None
    assert len(engine.scored) == (wanted is not None)
    # What waits for the model gets a thread of its own, and takes none from the others.
    assert engine.threads == ["chatplan-finish"] * len(engine.scored)


@pytest.mark.parametrize("error", [ValueError("no"), RequestError("odd")], ids=repr)
def test_what_the_engine_raises_for_a_run_that_is_begun(error: Exception) -> None:
    run, _ = run_of(planned())
    over: list[RowRun] = []
    launch(Scripted(error=error), run, over.append)
    wait_until(lambda: over == [run])
    assert isinstance(run.error, ChatplanError)
    assert error in (run.error, run.error.__cause__)


class Refuses(Scripted):
    def submit(self, rows: Sequence[Row], done: Callable[[], None]) -> None:
        raise ValueError("closed")


def test_a_run_that_cannot_begin_is_over_at_once() -> None:
    run, _ = run_of(planned())
    over: list[RowRun] = []
    launch(Refuses(), run, over.append)
    assert over == [run]
    assert str(run.error) == "ValueError: closed"


def test_a_reader_who_raises_fails_the_run_before_it_begins() -> None:
    def sink(chunk: ChatCompletionChunk) -> None:
        raise ValueError("no room")

    plan = replace(planned(), request_id="y")
    run, other = RowRun(plan, stand_in(), sink), run_of(plan)[0]
    execute(Scripted([65]), [other, run])
    assert str(run.error) == str(other.error) == "ValueError: no room"
