"""Answers cut into reasoning, content and calls: whatever the tokens are, the same parts."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import pytest

from chatplan.families import built_in_formats
from chatplan.hooks.parsing import output_stages
from chatplan.output import OutputStage, StageState, Step
from chatplan.plan import GenerationPlan, OutputOrder, Prompt
from chatplan.request import parse_request
from chatplan.row import Row
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only
EOS, SAY = 0, 1
CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": CITY}},
    {"type": "function", "function": {"name": "clock"}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}


@dataclass(frozen=True)
class Says(OutputStage):
    """Each token is the next piece of a text; EOS is none."""

    order: ClassVar[OutputOrder] = OutputOrder.DETOKENIZE
    pieces: tuple[str, ...] = field(repr=False)

    def open(self, row: Row) -> StageState:
        return _Saying(list(self.pieces))


class _Saying(StageState):
    def __init__(self, pieces: list[str]) -> None:
        self.pieces = pieces

    def feed(self, step: Step) -> None:
        step.text = self.pieces.pop(0) if step.token_ids == [SAY] else ""


class Answer(NamedTuple):
    """What the reader gets."""

    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    reasoning: str = ""
    finish_reason: str = "stop"


def pieces_of(text: str, seed: int) -> tuple[str, ...]:
    """Seed 0 is the text as a whole, 1 its characters, all others random pieces."""
    if seed < 2:
        return (text,) if seed == 0 else tuple(text)
    chance, pieces = random.Random(seed), []
    while text:
        length = chance.randint(1, 9)
        pieces.append(text[:length])
        text = text[length:]
    return tuple(pieces)


def steps_of(name: str, pieces: tuple[str, ...], prompt: str = "", cut: bool = False, **fields: Any) -> list[Step]:
    model = replace(stand_in(), answer_format=built_in_formats()[name])
    given = {"messages": [{"role": "user", "content": "Hi"}], "tools": TOOLS, "parallel_tool_calls": True}
    request = parse_request({**given, **fields})
    about = Prompt((1,), prompt)
    plan = GenerationPlan(
        request=request,
        request_id="x",
        model="m",
        prompt=about,
        template_args={},
        generation_config={"max_new_tokens": len(pieces) + (not cut), "eos_token_id": (EOS,)},
        processors=(),
        stopping_criteria=(),
        output_stages=(Says(pieces), *(output_stages(request, about, model) or ())),
    )
    steps: list[Step] = []
    row = Row(plan, model, emit=lambda row, step: steps.append(step))
    tokens = iter([SAY] * len(pieces) + [EOS])
    while not row.finished:
        row.push(next(tokens))
    return steps


def folded(steps: Iterable[Step]) -> Answer:
    content = reasoning = finish = ""
    calls: dict[int, list[str]] = {}
    for step in steps:
        content, reasoning = content + step.text, reasoning + step.reasoning
        finish = step.finish_reason or finish
        for delta in step.tool_calls:
            assert delta.function is not None
            assert (delta.id is None) == (delta.index in calls)
            call = calls.setdefault(delta.index, ["", ""])
            call[0] += delta.function.name or ""
            call[1] += delta.function.arguments or ""
    assert list(calls) == list(range(len(calls)))
    return Answer(content, tuple((name, arguments) for name, arguments in calls.values()), reasoning, finish)


def read(name: str, text: str, prompt: str = "", cut: bool = False, **fields: Any) -> Answer:
    """The answer ``text``, which is the same however it is cut."""
    answers = {folded(steps_of(name, pieces_of(text, seed), prompt, cut, **fields)) for seed in range(15)}
    assert len(answers) == 1
    return answers.pop()


# --- families ---------------------------------------------------------------------------------------------------------

BERN, TIME = ("weather", '{"city": "Bern"}'), ("clock", "{}")
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
CLOCK = '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
CALLED = "tool_calls"
FAMILIES: list[tuple[str, str, Answer]] = [
    ("hermes", "Hello.", Answer("Hello.")),
    ("hermes", "<think>\nHm.\n</think>\n\nHello.", Answer("Hello.", (), "Hm.")),
    ("hermes", f"<think>\nHm.\n</think>\n\n{CALL}", Answer("", (BERN,), "Hm.", CALLED)),
    ("hermes", f"Wait.\n{CALL}\n{CLOCK}\nDone.", Answer("Wait.\nDone.", (BERN, TIME), "", CALLED)),
    ("hermes", "a < b <tool_ca", Answer("a < b <tool_ca")),
    ("generic", f"<think>\n{CALL}{CLOCK}", Answer("<think>", (BERN, TIME), "", CALLED)),
    ("llama3_json", '{"name": "weather", "parameters": {"city": "Bern"}}', Answer("", (BERN,), "", CALLED)),
    ("llama3_json", '{"name": "Bern", "people": 1}', Answer('{"name": "Bern", "people": 1}')),
    (
        "llama3_json",
        'Now: {"name": "weather", "parameters": {"city": "Bern"}}; {"name": "clock", "parameters": {}}',
        Answer("Now:", (BERN, TIME), "", CALLED),
    ),
    (
        "mistral",
        'Ok. [TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "clock", "arguments": {}}]',
        Answer("Ok.", (BERN, TIME), "", CALLED),
    ),
    ("mistral_v11", '[THINK]Hm.[/THINK][TOOL_CALLS]clock[ARGS]{}', Answer("", (TIME,), "Hm.", CALLED)),
    ("qwen3_coder", "<tool_call>\n<function=clock>\n</function>\n</tool_call>", Answer("", (TIME,), "", CALLED)),
    ("qwen3_coder", "<tool_call>\n<function=clock></function>\n</tool_call> So.", Answer(" So.", (TIME,), "", CALLED)),
    ("glm45", "Hi.\n<tool_call>clock</tool_call>", Answer("Hi.", (TIME,), "", CALLED)),
    ("pythonic", '[weather(city="Bern"), clock()]', Answer("", (BERN, TIME), "", CALLED)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "expected"), FAMILIES)
def test_families(name: str, text: str, expected: Answer) -> None:
    assert read(name, text) == expected


def test_arguments_are_the_models_own_text_where_they_are_json() -> None:
    written = '{ "city":"B\\u00e9rn" ,\n "days": 3.0, "city": "}" }'
    text = f'<tool_call>{{"name": "weather", "arguments": {written}}}</tool_call>'
    assert read("hermes", text).calls == (("weather", written),)
    coder = "<function=weather>\n<parameter=city>\nBérn\n</parameter>\n<parameter=days>\n3\n</parameter>\n</function>"
    assert read("qwen3_coder", coder).calls == (("weather", '{"city": "Bérn", "days": 3}'),)


@pytest.mark.parametrize("arguments", ["null", "{}"])
def test_no_arguments_are_an_object(arguments: str) -> None:
    text = f'<tool_call>{{"name": "clock", "arguments": {arguments}}}</tool_call>'
    assert read("hermes", text).calls == (TIME,)


def test_a_name_behind_the_arguments() -> None:
    text = '<tool_call>{"arguments": {"city": "Bern"}, "name": "weather"}</tool_call>'
    assert read("hermes", text + CLOCK).calls == (BERN, TIME)


# --- malformed calls --------------------------------------------------------------------------------------------------

MALFORMED: list[tuple[str, str]] = [
    ("hermes", '<tool_call>{"name": weather}</tool_call>'),
    ("hermes", '<tool_call>{"name": "clock"}</tool_call>'),
    ("hermes", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "clock", "arguments": {}'[:30]),
    ("hermes", '<tool_call>"clock"}</tool_call>'),
    ("hermes", "<tool_call>}</tool_call>"),
    ("hermes", "<tool_call>" * 20),
    ("hermes", "<tool_call>" * 20 + "}</tool_call>" * 20),
    ("mistral", "[TOOL_CALLS] [1]"),
    ("mistral", "[TOOL_CALLS] [{}]"),
    ("mistral_v11", '[TOOL_CALLS]clock[ARGS]{"a": b}'),
    ("llama3_json", '{"name": "clock", "parameters": [1]'),
    ("pythonic", "[clock(a=b)]"),
    ("pythonic", "[clock(a="),
]


@pytest.mark.parametrize(("name", "text"), MALFORMED)
@pytest.mark.parametrize("parallel", [True, False])
def test_malformed_calls_are_text(name: str, text: str, parallel: bool) -> None:
    assert read(name, text, parallel_tool_calls=parallel) == Answer(text)


@pytest.mark.parametrize("bad", ['<tool_call>{"name": weather}</tool_call>', "<tool_call> is how: ", "<tool_call>}"])
def test_a_malformed_call_takes_nothing_else_with_it(bad: str) -> None:
    text = f"<think>in</think>think {CALL}in{bad}{CLOCK} thin"
    assert read("hermes", text) == Answer(f"thinkin{bad.rstrip()} thin", (BERN, TIME), "in", CALLED)


def test_what_follows_a_malformed_call_is_no_reasoning() -> None:
    bad = "<|tool▁call▁begin|>function<|tool▁sep|>clock\n```json\n{bad}\n```<|tool▁call▁end|>".replace("|", "\uff5c")
    text = f"Hm.</think>Hi.{bad} So."
    assert read("deepseek_r1", text) == Answer(f"Hi.{bad} So.", (), "Hm.")


def test_a_call_that_was_given_out_stays() -> None:
    text = '<tool_call>{"name": "clock", "arguments": {},}</tool_call> So.'
    assert read("hermes", text) == Answer(" So.", (TIME,), "", CALLED)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Wait. {CALL}", Answer("Wait.", (BERN,), "", "length")),
        (CALL[:-9], Answer("", (BERN,), "", "length")),
        (CALL[:50], Answer("", (("weather", '{"cit'),), "", "length")),
        (CALL[:20], Answer(CALL[:20], (), "", "length")),
        (f"{CALL}\n<tool_c", Answer("\n<tool_c", (BERN,), "", "length")),
        ("<think>Hm", Answer("", (), "Hm", "length")),
    ],
)
def test_answers_cut_by_their_length(text: str, expected: Answer) -> None:
    assert read("hermes", text, cut=True) == expected


# --- one call, named calls, reasoning ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hermes", f"Wait.\n{CALL}\n{CLOCK}\nDone."),
        ("hermes", f"Wait.\n{CALL} and so on"),
        ("mistral", 'Wait.[TOOL_CALLS][{"name": "weather", "arguments": {"city": "Bern"}}, {"name": "clock"}]'),
        ("mistral_v11", 'Wait.[TOOL_CALLS]weather[ARGS]{"city": "Bern"}[TOOL_CALLS]clock[ARGS]{}'),
        ("pythonic", 'Wait.\n[weather(city="Bern"), clock()]'),
    ],
)
def test_without_parallel_calls_the_answer_ends_with_the_first(name: str, text: str) -> None:
    assert read(name, text, parallel_tool_calls=False) == Answer("Wait.", (BERN,), "", CALLED)


def test_the_row_ends_as_soon_as_the_call_does() -> None:
    steps = steps_of("hermes", pieces_of(f"{CALL}\n{CLOCK}\nDone.", 1), parallel_tool_calls=False)
    assert len(CALL) <= len(steps) <= len(CALL) + 2


@pytest.mark.parametrize(("choice", "reason"), [("auto", CALLED), ("required", CALLED), (NAMED, "stop")])
def test_finish_reasons(choice: Any, reason: str) -> None:
    for parallel in (True, False):
        fields = {"tool_choice": choice, "parallel_tool_calls": parallel}
        assert read("hermes", CALL, **fields) == Answer("", (BERN,), "", reason)
        assert read("hermes", "Hello.", **fields) == Answer("Hello.")
    assert read("hermes", CALL, tool_choice=choice, cut=True).finish_reason == "length"


def test_without_tools_calls_are_text() -> None:
    assert read("hermes", f"<think>Hm</think>{CALL}", tool_choice="none") == Answer(CALL, (), "Hm")
    assert read("llama3_json", CALL, tool_choice="none") == Answer(CALL)


def test_reasoning_may_be_left_out() -> None:
    text = f"<think>\nHm.\n</think>\n\nSo.\n{CALL}"
    assert read("hermes", text, include_reasoning=False) == Answer("So.", (BERN,), "", CALLED)


PREFILLED: list[tuple[str, str, str, Answer]] = [
    ("hermes", "<|a|><think>", "Hm.\n</think>\n\nSo.", Answer("So.", (), "Hm.")),
    ("hermes", "<|a|><think>\n", "\nHm.\n</think>\n\nSo.", Answer("So.", (), "Hm.")),
    ("hermes", "<|a|><think>\n\n</think>\n\n", "So.", Answer("So.")),
    ("hermes", "<|u|>what is <think>?<|a|>", "So.", Answer("So.")),
    ("hermes", "<|u|><tool_call><|a|>", "So.", Answer("So.")),
    ("mistral_v11", "<|a|>[THINK]", "Hm[/THINK]So.", Answer("So.", (), "Hm")),
]


@pytest.mark.parametrize(("name", "prompt", "text", "expected"), PREFILLED)
def test_reasoning_that_the_prompt_began(name: str, prompt: str, text: str, expected: Answer) -> None:
    assert read(name, text, prompt) == expected


@pytest.mark.parametrize("begun", ["<think>", "<think>\nLet me", "<think>A</think>B<think>C"])
def test_reasoning_that_is_continued(begun: str) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": begun}]
    fields: dict[str, Any] = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    assert read("hermes", " see.</think>So.", f"<|a|>{begun}", **fields) == Answer("So.", (), "see.")
    closed = [messages[0], {"role": "assistant", "content": f"{begun}</think>So"}]
    answer = read("hermes", " it is.", f"<|a|>{begun}</think>So", **{**fields, "messages": closed})
    assert answer == Answer(" it is.")


def test_arguments_are_streamed() -> None:
    steps = steps_of("hermes", pieces_of(CALL, 1))
    deltas = [delta for step in steps for delta in step.tool_calls]
    assert json.loads("".join(delta.function.arguments or "" for delta in deltas if delta.function)) == {"city": "Bern"}
    assert len(deltas) > len(BERN[1])
    whole = [delta for step in steps_of("hermes", (CALL,)) for delta in step.tool_calls]
    assert len(whole) == 2  # not one for each character


def test_ids_are_unique() -> None:
    ids = [
        delta.id
        for _ in range(3)
        for step in steps_of("mistral", ('[TOOL_CALLS][{"name": "clock", "arguments": {}}]',))
        for delta in step.tool_calls
        if delta.id
    ]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("name", "text"), [("hermes", "<tool_call>}</tool_call>" * 300), ("hermes", "<tool_call>" * 900)]
)
def test_endless_repetition_takes_no_endless_time(name: str, text: str) -> None:
    assert folded(steps_of(name, tuple(text))) == Answer(text)
