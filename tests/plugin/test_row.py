"""A row: which check ends it, and what reaches the reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from chatplan.output import OutputStage, StageState, Step, TokenScores
from chatplan.plan import GenerationPlan, OutputOrder, Prompt, StopTokens
from chatplan.request import parse_request
from chatplan.response import TokenLogprob, ToolCallDelta
from chatplan.row import Row
from chatplan.standin import stand_in

EOS, STOP, LETTER = 0, 1, 65


@dataclass(frozen=True)
class Does(OutputStage):
    """A stage made of two functions."""

    order: ClassVar[OutputOrder] = OutputOrder.DETOKENIZE
    feed: Callable[[Step], None] = lambda step: None
    close: Callable[[], Step | None] = lambda: None

    def open(self, row: Row) -> StageState:
        return _Doing(self)


class _Doing(StageState):
    def __init__(self, wish: Does) -> None:
        self.wish = wish

    def feed(self, step: Step) -> None:
        self.wish.feed(step)

    def close(self) -> Step | None:
        return self.wish.close()


def letters(step: Step) -> None:
    step.text = "".join(chr(token) for token in step.token_ids if token >= LETTER)


def plan(*stages: OutputStage, limit: int = 10, eos: Any = (EOS,)) -> GenerationPlan:
    return GenerationPlan(
        request=parse_request({"messages": [{"role": "user", "content": "Hi"}]}),
        request_id="x",
        model="m",
        prompt=Prompt((7, 8)),
        template_args={},
        generation_config={"max_new_tokens": limit, "eos_token_id": eos},
        processors=(),
        stopping_criteria=(StopTokens((STOP,)), StopTokens((STOP + 1,))),
        output_stages=stages,
    )


def row(*stages: OutputStage, **more: Any) -> tuple[Row, list[Step]]:
    steps: list[Step] = []
    return Row(plan(*stages, **more), stand_in(), emit=lambda row, step: steps.append(step)), steps


def stop_at(text: str) -> Callable[[Step], None]:
    def feed(step: Step) -> None:
        if step.finish_reason is None and text in step.text:
            step.finish_reason, step.stop_reason = "stop", text

    return feed


# --- what ends a row --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tokens", "reason", "stop_reason"),
    [
        ([LETTER, EOS], "stop", None),
        ([LETTER, STOP], "stop", STOP),
        ([LETTER, STOP + 1], "stop", STOP + 1),
        ([LETTER, LETTER + 1], "stop", "B"),
        ([LETTER, LETTER, LETTER], "length", None),
        # Two at once: the end of sequence before stop tokens, these before stop strings, length last of all.
        ([LETTER, LETTER, EOS], "stop", None),
        ([LETTER, LETTER, STOP], "stop", STOP),
        ([LETTER, LETTER, LETTER + 1], "stop", "B"),
    ],
)
def test_what_ends_a_row(tokens: list[int], reason: str, stop_reason: str | int | None) -> None:
    made, steps = row(Does(letters), Does(stop_at("B")), limit=3)
    assert [made.push(token) for token in tokens] == [False] * (len(tokens) - 1) + [True]
    assert (made.finish_reason, made.stop_reason) == (reason, stop_reason)
    assert (steps[-1].finish_reason, steps[-1].stop_reason) == (reason, stop_reason)
    assert made.output_ids == tokens


def test_end_of_sequence_wins_over_a_stop_token_of_the_same_id() -> None:
    made, _ = row(eos=(STOP,))
    made.push(STOP)
    assert (made.finish_reason, made.stop_reason) == ("stop", None)


def test_without_an_end_of_sequence_only_the_others_count() -> None:
    made, _ = row(eos=[])
    assert not made.push(EOS)
    assert made.push(STOP)


def test_a_finished_row_takes_no_more_tokens() -> None:
    made, steps = row()
    assert made.push(EOS)
    assert made.push(LETTER)
    assert made.output_ids == [EOS]
    assert len(steps) == 1


# --- what reaches the reader ------------------------------------------------------------------------------------------


def test_steps_go_through_the_stages_in_order() -> None:
    made, steps = row(Does(letters), Does(lambda step: setattr(step, "text", step.text * 2)))
    made.push(LETTER)
    assert [step.text for step in steps] == ["AA"]


def test_scores_belong_to_the_token_they_were_left_for() -> None:
    made, steps = row()
    scores = TokenScores(-1.0, 1)
    made.scores = scores
    made.push(LETTER)
    made.push(LETTER)
    assert [step.scores for step in steps] == [scores, None]


def holding(text: str) -> Does:
    """Shows nothing until the end, then ``text``."""
    return Does(lambda step: setattr(step, "text", ""), lambda: Step(text=text))


def add_mark(step: Step) -> None:
    step.text += "!"


def test_held_back_text_goes_through_the_stages_behind() -> None:
    made, steps = row(Does(letters), holding("held"), Does(add_mark))
    made.push(LETTER)
    made.push(EOS)
    # The last step's own text, then what the second stage held, as the third one makes it.
    assert [step.text for step in steps] == ["!", "!held!"]


def test_stages_are_flushed_front_to_back() -> None:
    made, steps = row(Does(letters), Does(close=lambda: Step(text="1")), Does(close=lambda: Step(text="2")), limit=1)
    made.push(LETTER)
    assert [step.text for step in steps] == ["A12"]
    assert steps[0].finish_reason == "length"


def test_what_is_flushed_does_not_change_why_the_row_ended() -> None:
    made, steps = row(Does(letters, lambda: Step(text="B")), Does(stop_at("B")))
    made.push(EOS)
    assert (steps[-1].text, made.finish_reason, made.stop_reason) == ("B", "stop", None)


def test_a_plugin_may_end_a_row() -> None:
    made, steps = row(Does(letters), holding("held"))
    made.push(LETTER)
    made.finish("stop")
    made.finish("length")
    assert made.finished
    assert (made.finish_reason, [step.text for step in steps]) == ("stop", ["", "held"])


# --- errors and cancelling --------------------------------------------------------------------------------------------


def test_what_a_stage_raises_ends_the_row_only_when_the_engine_says_so() -> None:
    def explode(step: Step) -> None:
        raise ZeroDivisionError

    made, steps = row(Does(explode))
    with pytest.raises(ZeroDivisionError):
        made.push(LETTER)
    assert not made.finished
    made.fail(ZeroDivisionError("first"))
    made.fail(ValueError("second"))
    assert made.finished
    assert str(made.error) == "first"
    assert made.push(LETTER)
    assert steps == []


def test_a_cancelled_row_takes_no_more_tokens() -> None:
    made, steps = row()
    made.push(LETTER)
    made.cancel()
    assert made.finished
    assert made.push(LETTER)
    assert made.output_ids == [LETTER]
    assert made.finish_reason is None
    assert len(steps) == 1


def test_who_asked_is_told_of_a_cancelled_row() -> None:
    made, _ = row()
    told: list[tuple[Row, bool]] = []
    made.on_cancel = lambda cancelled: told.append((cancelled, cancelled.finished))
    made.cancel()
    assert told == [(made, True)]
    made.on_cancel = None
    made.cancel()
    assert len(told) == 1


def test_a_row_that_is_over_is_ended_by_nobody_else() -> None:
    for end in (Row.cancel, lambda made: made.fail(ValueError())):
        made, steps = row(holding("held"))
        end(made)
        made.finish("stop")
        assert (made.finish_reason, steps) == (None, [])


@pytest.mark.parametrize(
    ("tokens", "reason"), [([EOS], "tool_calls"), ([STOP], "tool_calls"), ([LETTER, LETTER], "length")]
)
def test_a_stage_may_know_better_why_an_answer_stopped(tokens: list[int], reason: str) -> None:
    made, steps = row(Does(close=lambda: Step(finish_reason="tool_calls")), limit=2)
    for token in tokens:
        made.push(token)
    assert made.finish_reason == steps[-1].finish_reason == reason


def test_everything_held_back_is_in_the_last_step() -> None:
    call, token = ToolCallDelta(index=0), TokenLogprob(token="a", logprob=-1)
    rest = Step(text="t", reasoning="r", tool_calls=[call], logprobs=[token])

    def said(step: Step) -> None:
        step.text, step.reasoning, step.tool_calls, step.logprobs = "T", "R", [call], [token]

    made, steps = row(Does(said, lambda: rest))
    made.push(EOS)
    last = steps[-1]
    assert (last.text, last.reasoning, last.tool_calls, last.logprobs) == ("Tt", "Rr", [call, call], [token, token])


def test_a_new_row_has_read_its_prompt_only() -> None:
    made, _ = row()
    assert (made.prompt_ids, made.output_ids, made.finished) == ((7, 8), [], False)


def test_every_row_has_stages_of_its_own() -> None:
    opened: list[Row] = []

    @dataclass(frozen=True)
    class Noting(Does):
        def open(self, row: Row) -> StageState:
            opened.append(row)
            return StageState()

    shared = plan(Noting())
    made = [Row(shared, stand_in(), index) for index in range(2)]
    assert opened == made
    assert [each.index for each in made] == [0, 1]
    made[0].push(EOS)  # nobody listens, which is fine
    assert [each.finished for each in made] == [True, False]
