"""The figures of a level of load are what arrived."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatplan.adapters.bench import showing
from chatplan.adapters.bench.load import Level, Plan
from chatplan.adapters.bench.samples import Sample, figures, percentiles
from chatplan.adapters.bench.showing import as_json, as_table, errors_of
from chatplan.adapters.bench.words import long_prompt


def event(**delta: Any) -> dict[str, Any]:
    return {"choices": [{"delta": delta}]}


def usage(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": 7}}


def sample(start: float, *moments: float, tokens: int = 3, error: str | None = None) -> Sample:
    events = [(start, event(role="assistant", content="")), *((moment, event(content="a")) for moment in moments)]
    made = Sample(start, moments[-1], [*events, (moments[-1], usage(tokens))], error=error)
    made.read()
    return made


def test_times_are_those_of_events_that_say_something() -> None:
    one = sample(1.0, 1.5, 1.75, 2.25)
    assert one.first == 0.5
    assert one.gaps == [0.25, 0.5]
    assert (one.tokens, one.prompt_tokens) == (3, 7)


@pytest.mark.parametrize("delta", [{"reasoning_content": "a"}, {"reasoning": "a"}, {"tool_calls": [{"index": 0}]}])
def test_reasoning_and_tool_calls_say_something_too(delta: dict[str, Any]) -> None:
    one = Sample(0.0, 1.0, [(0.5, event(role="assistant")), (1.0, event(**delta))])
    one.read()
    assert one.times == [1.0]


def test_without_a_usage_each_event_counts_as_a_token() -> None:
    one = Sample(0.0, 1.0, [(0.5, event(content="a")), (1.0, event(content="b"))])
    one.read()
    assert one.tokens == 2


def test_a_usage_may_say_less_than_all() -> None:
    one = Sample(0.0, 1.0, [(0.5, event(content="a")), (1.0, {"choices": [], "usage": {"completion_tokens": 4}})])
    one.read()
    assert (one.tokens, one.prompt_tokens) == (4, 0)


def test_figures_add_up_and_leave_out_what_failed() -> None:
    found = figures([sample(0.0, 1.0, 2.0), sample(0.0, 3.0, 4.0), sample(0.0, 9.0, error="refused")], 4.0)
    assert (found["requests"], found["errors"], found["output_tokens"], found["prompt_tokens"]) == (3, 1, 6, 14)
    assert (found["tokens_per_s"], found["requests_per_s"]) == (1.5, 0.5)
    assert found["ttft_ms"] == {"p50": 2000.0, "p90": 2800.0, "p99": 2980.0}
    assert found["inter_token_ms"] == {"p50": 1000.0, "p99": 1000.0}
    assert found["latency_ms"]["p50"] == 3000.0


def test_figures_of_nothing_are_empty() -> None:
    assert percentiles([], (50, 99)) == {"p50": None, "p99": None}
    assert figures([], 0.0)["tokens_per_s"] == 0.0


def test_a_level_lasts_until_its_last_answer() -> None:
    level = Level(2, start=10.0, samples=[sample(10.0, 11.0), sample(10.0, 14.0)])
    assert level.figures()["seconds"] == 4.0
    assert [item["latency_ms"] for item in level.to_dict()["samples"]] == [1000.0, 4000.0]


def test_the_table_has_a_row_for_each_level_and_the_errors_stand_below() -> None:
    levels = [Level(1, 0.0, [sample(0.0, 1.0)]), Level(2, 0.0, [sample(0.0, 1.0, error="[refused]")] * 2)]
    assert as_table({"target": "[here]"}, levels).row_count == 2
    assert errors_of(levels) == ["2 failed: [refused]"]


def test_times_are_short_and_missing_ones_a_dash() -> None:
    assert [showing._time(value) for value in (None, 1.26, 99.94, 100.0, 1234.5)] == ["-", "1.3", "99.9", "100", "1234"]


def test_the_three_commonest_errors_are_told() -> None:
    errors = [Sample(0.0, error=name) for name in "abbcccdddd"]
    assert errors_of([Level(1, 0.0, errors)]) == ["4 failed: d", "3 failed: c", "2 failed: b"]


def test_a_row_has_counts_rates_and_times() -> None:
    level = Level(2, 0.0, [sample(0.0, 0.25, 0.5), sample(0.0, 0.25, 2.0), sample(0.0, 1.0, error="x")])
    assert showing._cells(level.figures()) == ["2", "3", "1", "3.0", "1.00", "250/250/250", "1000/1735",
                                               "1250/1850/1985"]  # fmt: skip


def test_all_samples_are_written_with_times_since_their_level_began() -> None:
    found = json.loads(as_json({"target": "é"}, [Level(1, 1.0, [sample(1.5, 2.0, 2.25)])]))
    assert found["target"] == "é"
    (level,) = found["levels"]
    assert level["samples"] == [{"start_ms": 500.0, "ttft_ms": 500.0, "latency_ms": 750.0, "inter_token_ms": [250.0],
                                 "output_tokens": 3, "prompt_tokens": 7, "error": None}]  # fmt: skip


def test_bodies_are_the_same_in_every_run_and_each_has_a_prompt_of_its_own() -> None:
    plan = Plan((1,), prompt_tokens=30, max_tokens=5)
    assert plan.body("1 0") == Plan((1,), prompt_tokens=30, max_tokens=5).body("1 0")
    assert plan.body("1 0")["messages"] != plan.body("1 1")["messages"]
    assert plan.body("1 0")["seed"] == 0
    assert len(long_prompt(30, "a").split()) == 30


def test_a_level_that_is_there_twice_has_prompts_of_its_own() -> None:
    plan = Plan((2, 1, 2), requests=3)
    prompts = [body["messages"][0]["content"] for at in range(3) for body in plan.bodies(at)]
    assert len(set(prompts)) == 9
    assert plan.bodies(0) == Plan((2,), requests=3).bodies(0)


def test_fields_of_the_request_file_win() -> None:
    plan = Plan((1,), fields={"max_completion_tokens": 9, "temperature": 1.5, "stream": False})
    body = plan.body("1 0")
    assert "max_tokens" not in body
    assert (body["temperature"], body["stream"]) == (1.5, True)


def test_without_a_count_each_client_sends_three_requests_and_a_level_at_least_eight() -> None:
    assert [Plan((1,)).count(clients) for clients in (1, 2, 3, 8)] == [8, 8, 9, 24]
    assert Plan((1,), requests=5).count(8) == 5
