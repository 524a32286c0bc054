"""The engine on ``model.generate``: which rows run together, what ends them, and what a model may be."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, StoppingCriteria
from waiting import SECONDS, join, wait_until

from chatplan import (
    Chat,
    ChatCompletionRequest,
    GenerationPlan,
    OutputOrder,
    OutputStage,
    Processor,
    Prompt,
    Row,
    Stage,
    StageState,
    Step,
    hookimpl,
)
from chatplan.engine import EngineStats, scoring
from chatplan.engine.batches import batches, longest_row, model_inputs
from chatplan.engine.sampler import Sampler
from chatplan.errors import ChatplanError, EngineError
from chatplan.run import RowRun

NewChat = Callable[..., Chat]
NewModel = Callable[[], Any]
Messages = list[dict[str, str]]


def ask(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def ids_of(chat: Chat, messages: Any, **fields: Any) -> list[int]:
    answer = chat.complete(messages, return_token_ids=True, **fields)
    return answer.choices[0].token_ids or []


def run_all(chat: Chat, requests: Sequence[Any]) -> list[RowRun]:
    """All requests in one ``engine.run``; errors are left where they happened."""
    runs = [RowRun(chat.plan(request), chat.model, lambda chunk: None) for request in requests]
    chat.engine.answer(runs)
    return runs


@contextmanager
def forwards(chat: Chat, pause: float = 0.0, gate: threading.Event | None = None) -> Iterator[list[dict[str, Any]]]:
    """The arguments of every forward call of the model, as they begin; each waits for the ``gate``."""
    calls: list[dict[str, Any]] = []

    def note(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        calls.append(kwargs)
        time.sleep(pause)
        assert gate is None or gate.wait(SECONDS)

    handle = chat.model.require_module().register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


# --- batches ----------------------------------------------------------------------------------------------------------

MIXED: list[dict[str, Any]] = [
    {"messages": ask("a"), "temperature": 0},
    {"messages": ask("a longer question " * 3), "temperature": 0, "repetition_penalty": 1.3},
    {"messages": ask("b"), "seed": 3, "temperature": 1.5, "n": 2},
    {"messages": ask("why " * 9), "seed": 3, "top_p": 0.5, "max_tokens": 3},
    {"messages": ask("c"), "temperature": 0, "logit_bias": {"65": 60}, "stop": ["bb"]},
    {"messages": ask("d" * 40), "seed": 9, "presence_penalty": 2.0, "logprobs": True, "top_logprobs": 2},
    {"messages": ask("e"), "use_beam_search": True, "n": 2},
    {"messages": ask("ff"), "seed": 1, "best_of": 3},
]


def shown(answer: Any) -> Any:
    """What must be equal: everything but the id, the time, and the last digits of log-probabilities."""
    data = answer.to_dict()
    for choice in data["choices"]:
        for entry in (choice.get("logprobs") or {}).get("content", ()):
            for item in (entry, *entry["top_logprobs"]):
                item["logprob"] = pytest.approx(item["logprob"], abs=1e-4)
    return data["choices"], data["usage"]


@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_an_answer_does_not_depend_on_its_company(new_chat: NewChat, batch_size: int) -> None:
    chat = new_chat(batch_size=batch_size, defaults={"max_tokens": 7, "return_token_ids": True})
    alone = [chat.complete(request) for request in MIXED]
    together = chat.complete_batch(MIXED)
    assert [shown(answer) for answer in together] == [shown(answer) for answer in alone]


def test_a_lazy_supply_is_answered_in_order(new_chat: NewChat) -> None:
    chat = new_chat(batch_size=2, defaults={"temperature": 0, "max_tokens": 3})
    questions = [ask(letter) for letter in "abcde"]
    taken = []

    def supply() -> Iterator[Messages]:
        for question in questions:
            taken.append(question)
            yield question

    answers = chat.complete_each(supply())
    first = next(answers)
    assert len(taken) == 2
    assert [first.text, *(answer.text for answer in answers)] == [chat.complete(q).text for q in questions]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_one_search_may_be_wider_than_a_batch(new_chat: NewChat, batch_size: int) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "n": 4, "max_tokens": 5, "return_token_ids": True}
    narrow, wide = new_chat(batch_size=batch_size), new_chat(batch_size=16)
    beams = [choice.token_ids for choice in narrow.complete(ask("x"), **fields).choices]
    assert beams == [choice.token_ids for choice in wide.complete(ask("x"), **fields).choices]
    assert len({tuple(beam or ()) for beam in beams}) == 4


def test_a_batch_has_at_most_so_many_rows(new_chat: NewChat) -> None:
    chat = new_chat(batch_size=2, defaults={"ignore_eos": True, "max_tokens": 2})
    with forwards(chat) as calls:
        chat.complete_batch([ask("a"), {"messages": ask("bb"), "n": 3}, ask("c")])
    assert [call["input_ids"].shape[0] for call in calls] == [2, 2, 2, 2, 1, 1]


def test_a_row_that_is_over_does_not_grow_out_of_the_context(new_chat: NewChat) -> None:
    chat = new_chat(max_model_len=64, defaults={"temperature": 0, "ignore_eos": True, "return_token_ids": True})
    requests = [{"messages": ask("y" * 40), "max_tokens": 3}, {"messages": ask("x"), "max_tokens": 40}]
    alone = [chat.complete(request) for request in requests]
    with forwards(chat) as calls:
        together = chat.complete_batch(requests)
    assert [len(answer.choices[0].token_ids or []) for answer in together] == [3, 40]
    assert [shown(answer) for answer in together] == [shown(answer) for answer in alone]
    # Once the long one is over it is padding beside the other, until there is no room for it.
    both = [call["attention_mask"].shape[1] for call in calls if len(call["input_ids"]) == 2]
    longest = len(chat.plan(requests[0]).prompt.token_ids)
    assert both == list(range(longest, 64))


def test_a_batch_is_one_forward_for_each_token(new_chat: NewChat) -> None:
    chat = new_chat(defaults={"ignore_eos": True, "max_tokens": 6})
    with forwards(chat) as calls:
        chat.complete_batch([ask("one"), ask("another one"), ask("a third")])
    assert [call["input_ids"].shape[0] for call in calls] == [3] * 6


# --- whose turn it is -------------------------------------------------------------------------------------------------


def prompts_read(calls: Sequence[dict[str, Any]]) -> list[int]:
    """Lengths of the prompts in the order in which the model read them."""
    return [call["input_ids"].shape[1] for call in calls if call["input_ids"].shape[1] > 1]


def order_of_calls(chat: Chat, *wishes: dict[str, Any]) -> list[int]:
    """In which order the model reads requests that came one after another while it was at the first."""
    plans = [chat.plan(ask("x" * at), max_tokens=2, ignore_eos=True, **wish) for at, wish in enumerate(wishes, 1)]
    lengths = [len(plan.prompt.token_ids) for plan in plans]
    gate, ended = threading.Event(), list[Any]()
    with forwards(chat, gate=gate) as calls:
        for waiting, plan in enumerate(plans):
            chat.start(plan, lambda chunk: None, ended.append)
            wait_until(lambda: chat.engine.stats().waiting == waiting and bool(calls))  # noqa: B023
        gate.set()
        wait_until(lambda: len(ended) == len(plans))
    assert [run.error for run in ended] == [None] * len(plans)
    return [lengths.index(length) for length in prompts_read(calls)]


def test_the_most_urgent_call_goes_first_and_equals_in_order(new_chat: NewChat) -> None:
    chat = new_chat(scheduling_policy="priority", batch_size=1)
    assert order_of_calls(chat, *({"priority": level} for level in (0, 2, 5, -1, 2))) == [0, 3, 1, 4, 2]
    assert order_of_calls(new_chat(), {}, {}, {}) == [0, 1, 2]


def test_the_urgent_come_between_the_batches_of_others(new_chat: NewChat) -> None:
    chat = new_chat(scheduling_policy="priority", batch_size=1)
    assert order_of_calls(chat, {"priority": 4, "n": 3}, {"priority": 3}, {"priority": 5}) == [0, 1, 0, 0, 2]


def test_the_most_urgent_rows_of_one_call_go_first(new_chat: NewChat) -> None:
    chat = new_chat(scheduling_policy="priority", batch_size=1, defaults={"max_tokens": 1, "temperature": 0})
    requests = [{"messages": ask("x" * at), "priority": level} for at, level in enumerate((3, -1, 3, 0), 1)]
    lengths = [len(chat.plan(request).prompt.token_ids) for request in requests]
    with forwards(chat) as calls:
        answers = chat.complete_batch(requests)
    assert [lengths.index(length) for length in prompts_read(calls)] == [1, 3, 0, 2]
    assert [answer.text for answer in answers] == [chat.complete(request).text for request in requests]


def test_a_batch_is_as_urgent_as_its_most_urgent_row(new_chat: NewChat) -> None:
    chat = new_chat(scheduling_policy="priority", defaults={"max_tokens": 1})
    short, mixed, middle = ask("x"), [{"messages": ask("xxx"), "priority": level} for level in (9, 1)], ask("x" * 5)
    gate, threads = threading.Event(), []
    works = (
        lambda: chat.complete(short),
        lambda: chat.complete(middle, priority=4),
        lambda: chat.complete_batch(mixed),
    )
    with forwards(chat, gate=gate) as calls:
        for waiting, work in enumerate(works):
            threads.append(threading.Thread(target=work))
            threads[-1].start()
            wait_until(lambda: chat.engine.stats().waiting == waiting and bool(calls))  # noqa: B023
        gate.set()
        for thread in threads:
            join(thread)
    lengths = prompts_read(calls)
    assert lengths == [lengths[0], lengths[0] + 2, lengths[0] + 4]


def test_it_says_how_busy_it_is(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    chat = new_chat(model=model, plugins=[Bomb()])
    assert chat.engine.stats() == EngineStats(0, 0)
    gate, ended = threading.Event(), list[Any]()
    with forwards(chat, gate=gate) as calls:
        chat.start(chat.plan(ask("x"), n=3, max_tokens=2), lambda chunk: None, ended.append)
        wait_until(lambda: bool(calls))
        chat.start(chat.plan(ask("y"), max_tokens=2), lambda chunk: None, ended.append)
        wait_until(lambda: chat.engine.stats() == EngineStats(1, 3))
        gate.set()
        wait_until(lambda: len(ended) == 2)
    wait_until(lambda: chat.engine.stats() == EngineStats(0, 0))
    handle = model.register_forward_pre_hook(burst)
    assert isinstance(run_all(chat, [ask("x")])[0].error, EngineError)
    handle.remove()
    assert chat.engine.stats() == EngineStats(0, 0)


def burst(*args: Any) -> None:
    raise MemoryError("no room")


# --- grouping ---------------------------------------------------------------------------------------------------------


class NoRepeat:
    """A plugin that answers for a field by an attribute of GenerationConfig."""

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"no_repeat": int}

    @hookimpl
    def generation_config(self, request: ChatCompletionRequest) -> Mapping[str, Any] | None:
        size = request.get("no_repeat")
        return {"no_repeat_ngram_size": size} if size else None


def test_rows_of_one_call_share_their_generation_config(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[NoRepeat()])
    wishes: list[dict[str, Any]] = [{}, {"no_repeat": 1}, {"seed": 3, "n": 2}, {"no_repeat": 1}, {"no_repeat": 2}]
    rows = [row for wish in wishes for row in RowRun(chat.plan(ask("x"), **wish), chat.model, print).rows]
    assert [[rows.index(row) for row in group] for group in batches(rows, 9, True)] == [[0, 2, 3], [1, 4], [5]]
    assert [[rows.index(row) for row in group] for group in batches(rows, 2, True)] == [[0, 2], [3], [1, 4], [5]]


def rendering(text: str) -> Any:
    """A plugin whose prompts have a tensor beside their tokens, as those with images have."""
    inputs = {"pixel_values": torch.ones(1, 2), "kind": text}
    return SimpleNamespace(name="rendering", render_prompt=hookimpl(lambda: Prompt((65, 66), inputs=inputs)))


def test_rows_with_inputs_of_their_own_run_beside_their_own_request(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[rendering("x")])
    rows = [row for _ in range(2) for row in RowRun(chat.plan(ask("x"), n=2), chat.model, print).rows]
    assert [[rows.index(row) for row in group] for group in batches(rows, 9, True)] == [[0, 1], [2, 3]]
    given = model_inputs(rows[:2], 256, torch.device("cpu"))
    assert given["pixel_values"].tolist() == [[1.0, 1.0]] * 2
    assert given["kind"] == "x"
    assert given["input_ids"].tolist() == [[65, 66]] * 2


def test_shorter_rows_are_padded_in_front(tiny: Chat) -> None:
    rows = [RowRun(tiny.plan(ask(text)), tiny.model, print).rows[0] for text in ("x", "xyz")]
    rows[0].output_ids = [70]
    given = model_inputs(rows, 256, torch.device("cpu"))
    assert given["input_ids"].tolist() == [[256, *rows[0].prompt_ids, 70], list(rows[1].prompt_ids)]
    assert given["attention_mask"].tolist() == [
        [0, *[1] * (len(rows[0].prompt_ids) + 1)],
        [1] * len(rows[1].prompt_ids),
    ]
    assert longest_row(rows) == len(rows[1].prompt_ids)


def test_a_plugins_generation_config_acts_on_its_own_request(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[NoRepeat()])
    base = {"temperature": 0, "max_tokens": 24, "ignore_eos": True, "logit_bias": {"65": 60}, "return_token_ids": True}
    requests = [{"messages": ask("x"), **base}, {"messages": ask("x"), **base, "no_repeat": 1}]
    free, bound = (answer.choices[0].token_ids or [] for answer in chat.complete_batch(requests))
    assert free == [65] * 24
    assert len(set(bound)) == 24


def test_equal_lengths_only_for_models_with_a_state(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    model._is_stateful = True
    chat = new_chat(model=model, defaults={"temperature": 0, "max_tokens": 4, "ignore_eos": True})
    questions = [ask("ab"), ask("long"), ask("cd"), ask("x")]
    with forwards(chat) as calls:
        answers = chat.complete_batch(questions)
    starts = [call["input_ids"] for call in calls if call["input_ids"].shape[1] > 1]
    assert [tuple(ids.shape) for ids in starts] == [
        (2, starts[0].shape[1]),
        (1, starts[1].shape[1]),
        (1, starts[2].shape[1]),
    ]
    assert [answer.text for answer in answers] == [chat.complete(question).text for question in questions]


def test_a_model_without_a_state_pads(new_chat: NewChat) -> None:
    chat = new_chat(defaults={"temperature": 0, "max_tokens": 2})
    with forwards(chat) as calls:
        chat.complete_batch([ask("ab"), ask("long")])
    assert calls[0]["input_ids"].shape[0] == 2
    assert calls[0]["attention_mask"].sum(dim=1).tolist() == [
        calls[0]["input_ids"].shape[1] - 2,
        calls[0]["input_ids"].shape[1],
    ]


# --- the model's own defaults -----------------------------------------------------------------------------------------

OWN = {"temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.3}


def test_sampling_values_of_the_model_are_defaults(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    for name, value in {**OWN, "do_sample": True}.items():
        setattr(model.generation_config, name, value)
    chat, plain = new_chat(model=model), new_chat()
    fields: dict[str, Any] = {"seed": 4, "max_tokens": 20, "ignore_eos": True}
    assert ids_of(chat, ask("x"), **fields) == ids_of(plain, ask("x"), **fields, **OWN)
    assert ids_of(chat, ask("x"), **fields) != ids_of(plain, ask("x"), **fields)
    other = {"temperature": 1.4, "top_k": -1, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    assert ids_of(chat, ask("x"), **fields, **other) == ids_of(plain, ask("x"), **fields, **other)
    greedy = {"temperature": 0, "repetition_penalty": 1.0}
    assert ids_of(chat, ask("x"), **fields, **greedy) == ids_of(plain, ask("x"), **fields, **greedy)


def test_the_models_generation_config_is_not_changed(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    model.generation_config.top_k = 7
    before = model.generation_config.to_dict()
    new_chat(model=model).complete_batch(MIXED[:7], max_tokens=2)
    assert model.generation_config.to_dict() == before


def test_ways_to_end_of_the_model_are_not_the_requests(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    for name, value in {"max_time": 1e-9, "stop_strings": ["a"], "min_new_tokens": 4, "min_length": 99, "max_length": 5,
                        "max_new_tokens": 2, "eos_token_id": 65}.items():  # fmt: skip
        setattr(model.generation_config, name, value)
    chat = new_chat(model=model)
    fields: dict[str, Any] = {"temperature": 0, "logit_bias": {"66": 80}, "max_tokens": 3}
    assert ids_of(chat, ask("x"), **fields) == [66] * 3
    assert ids_of(chat, ask("x"), **{**fields, "logit_bias": {"65": 80}}) == [65]


def test_a_model_that_writes_nothing_is_an_error(
    new_model: NewModel, new_chat: NewChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    monkeypatch.setattr(model, "generate", lambda use_model_defaults=None, **arguments: arguments["input_ids"])
    with pytest.raises(EngineError, match="generate ended without a token"):
        new_chat(model=model).complete(ask("x"))


def test_other_attributes_of_the_model_act(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    model.generation_config.suppress_tokens = [65]
    fields: dict[str, Any] = {"temperature": 0, "logit_bias": {"65": 60}, "max_tokens": 2, "ignore_eos": True}
    assert ids_of(new_chat(), ask("x"), **fields) == [65, 65]
    assert 65 not in ids_of(new_chat(model=model), ask("x"), **fields)


# --- plugins' own processors and criteria -----------------------------------------------------------------------------


class Spy(LogitsProcessor):
    """Notes what it sees, and takes token 66."""

    def __init__(self, seen: list[tuple[list[list[int]], tuple[int, ...]]]) -> None:
        self.seen = seen

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        self.seen.append((input_ids.tolist(), tuple(scores.shape)))
        forced = torch.full_like(scores, -torch.inf)
        forced[:, 66] = 0.0
        return forced


class EndsWith(StoppingCriteria):
    """Stops after ``count`` tokens of the answer, and notes the shape of what it sees."""

    def __init__(self, prompt: int, count: int, seen: list[tuple[int, ...]]) -> None:
        self.prompt, self.count, self.seen = prompt, count, seen

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self.seen.append(tuple(input_ids.shape))
        return torch.tensor([input_ids.shape[1] - self.prompt >= self.count])


class Plain:
    """A plugin of plain transformers objects."""

    def __init__(self) -> None:
        self.processed: list[tuple[list[list[int]], tuple[int, ...]]] = []
        self.criteria: list[tuple[int, ...]] = []

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"spy": bool, "stop_after": int}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        return [(Stage.BIAS, Spy(self.processed))] if request.get("spy") else None

    @hookimpl
    def stopping_criteria(self, request: ChatCompletionRequest, prompt: Any) -> Iterable[Any] | None:
        count = request.get("stop_after")
        return [EndsWith(len(prompt.token_ids), count, self.criteria)] if count else None


def test_plain_processors_and_criteria_see_their_own_row_alone(new_chat: NewChat) -> None:
    plugin = Plain()
    chat = new_chat(plugins=[plugin], defaults={"max_tokens": 5, "ignore_eos": True, "return_token_ids": True})
    requests = [
        {"messages": ask("a long question " * 5), "seed": 1},
        {"messages": ask("q"), "spy": True, "stop_after": 3, "seed": 2},
        {"messages": ask("other"), "seed": 3},
    ]
    neighbours = [chat.complete(requests[0]), chat.complete(requests[2])]
    first, spied, last = chat.complete_batch(requests)
    assert [shown(first), shown(last)] == [shown(answer) for answer in neighbours]
    assert spied.choices[0].token_ids == [66] * 3
    assert spied.choices[0].finish_reason == "stop"
    prompt = list(chat.plan(requests[1]).prompt.token_ids)
    assert plugin.processed == [([[*prompt, *[66] * at]], (1, 300)) for at in range(3)]
    assert plugin.criteria == [(1, len(prompt) + at) for at in (1, 2, 3)]


def test_any_criterion_ends_a_row(new_chat: NewChat) -> None:
    seen: list[tuple[int, ...]] = []

    class Two:
        @hookimpl
        def stopping_criteria(self, prompt: Any) -> Iterable[Any]:
            return [EndsWith(len(prompt.token_ids), count, seen) for count in (9, 3)]

    answer = new_chat(plugins=[Two()]).complete(ask("q"), max_tokens=6, ignore_eos=True, return_token_ids=True)
    assert len(answer.choices[0].token_ids or []) == 3
    assert answer.choices[0].finish_reason == "stop"


def test_plain_criteria_cut_finished_beams(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[Plain()], defaults={"max_tokens": 6, "ignore_eos": True, "return_token_ids": True})
    wish = {"messages": ask("q"), "use_beam_search": True, "n": 2}
    whole, cut = chat.complete(wish), chat.complete(wish, stop_after=2)
    for choice, short in zip(whole.choices, cut.choices, strict=True):
        assert short.token_ids == (choice.token_ids or [])[:2]
        assert short.finish_reason == "stop"


class Doubles(LogitsProcessor):
    """Doubles the scores, then adds."""

    def __init__(self, more: float) -> None:
        self.more = more

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        return scores * 2 + self.more


class Twice:
    """A plugin with two processors of one class, and one that is none."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        return [(Stage.BIAS, item) for item in self.items] if request.user == "twice" else None


def test_two_processors_of_one_class_both_act_and_in_order(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[Twice(Doubles(1.0), Doubles(5.0))])
    rows = [RowRun(chat.plan(ask("x"), temperature=0, user=user), chat.model, print).rows[0] for user in ("a", "twice")]
    scores = Sampler(rows, torch.device("cpu"), frozenset({Stage.GRAMMAR}))(torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    assert scores.tolist() == [[1.0, 3.0], [(1 * 2 + 1) * 2 + 5, (3 * 2 + 1) * 2 + 5]]
    left_out = Sampler(rows, torch.device("cpu"), frozenset({Stage.BIAS}))(torch.tensor([[1.0, 3.0], [1.0, 3.0]]))
    assert left_out.tolist() == [[1.0, 3.0]] * 2


def test_what_is_no_processor_fails_its_request_alone(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[Twice(object())])
    good, bad = run_all(chat, [{"messages": ask("x"), "max_tokens": 2, "user": user} for user in ("a", "twice")])
    assert good.error is None
    assert str(bad.error) == "object is neither a chatplan.Processor nor a transformers.LogitsProcessor"


# --- errors -----------------------------------------------------------------------------------------------------------


class Boom(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        raise ZeroDivisionError("in a plain processor")


@dataclass(frozen=True)
class BatchBoom(Processor):
    stage: ClassVar[Stage] = Stage.BIAS
    when: str

    @classmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> Any:
        if processors[0].when == "make":
            raise ZeroDivisionError("in for_rows")
        return _BatchBoom(processors[0].when)


class _BatchBoom:
    def __init__(self, when: str) -> None:
        self.when = when

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        if self.when == "call":
            raise ZeroDivisionError("in a batch function")
        return scores

    def advance(self, tokens: torch.Tensor) -> None:
        raise ZeroDivisionError("in advance")


class CriterionBoom(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("in a criterion")


@dataclass(frozen=True)
class StageBoom(OutputStage):
    order: ClassVar[OutputOrder] = OutputOrder.STOPS
    when: str

    def open(self, row: Row) -> StageState:
        return _StageBoom(self.when)


class _StageBoom(StageState):
    def __init__(self, when: str) -> None:
        self.when = when

    def feed(self, step: Step) -> None:
        if self.when == "feed":
            raise ZeroDivisionError("in feed")

    def close(self) -> Step | None:
        raise ZeroDivisionError("in close")


BOOMS: dict[str, Mapping[str, Any]] = {
    "plain processor": {"logits_processors": (Stage.BIAS, Boom())},
    "batch function": {"logits_processors": BatchBoom("call")},
    "for_rows": {"logits_processors": BatchBoom("make")},
    "advance": {"logits_processors": BatchBoom("advance")},
    "criterion": {"stopping_criteria": CriterionBoom()},
    "feed": {"output_stages": StageBoom("feed")},
    "close": {"output_stages": StageBoom("close")},
}


class Bomb:
    """A plugin that raises in the place the field ``boom`` names."""

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"boom": str}

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        return self._item(request, "logits_processors")

    @hookimpl
    def stopping_criteria(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        return self._item(request, "stopping_criteria")

    @hookimpl
    def output_stages(self, request: ChatCompletionRequest) -> Iterable[Any] | None:
        return self._item(request, "output_stages")

    def _item(self, request: ChatCompletionRequest, hook: str) -> list[Any] | None:
        item = BOOMS.get(request.get("boom"), {}).get(hook)
        return None if item is None else [item]


DRAWN = [(where, False) for where in BOOMS]
BEAMS = [(where, True) for where in BOOMS if where not in ("advance", "criterion")]  # a search calls neither


@pytest.mark.parametrize(("where", "beams"), [*DRAWN, *BEAMS])
def test_an_error_of_one_request_is_its_own(new_chat: NewChat, where: str, beams: bool) -> None:
    chat = new_chat(plugins=[Bomb()])
    base = {"max_tokens": 4, "ignore_eos": True, "seed": 1}
    bad = {"messages": ask("bad"), **base, "boom": where, "use_beam_search": beams, "n": 1 + beams}
    before, failed, after = run_all(chat, [{"messages": ask("a"), **base}, bad, {"messages": ask("bb"), **base}])
    assert isinstance(failed.error, EngineError)
    assert isinstance(failed.error.__cause__, ZeroDivisionError)
    assert where.split()[-1] in str(failed.error)
    for run, text in ((before, "a"), (after, "bb")):
        assert run.error is None
        assert run.rows[0].output_ids == ids_of(chat, ask(text), **base)


def test_an_error_is_raised_where_the_answer_is_read(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[Bomb()])
    with pytest.raises(EngineError, match="ZeroDivisionError: in feed"):
        chat.complete(ask("x"), boom="feed", max_tokens=3)
    with pytest.raises(EngineError, match="in close"):
        list(chat.stream(ask("x"), boom="close", max_tokens=3))
    assert chat.complete(ask("x"), max_tokens=3).choices


def test_an_error_of_the_model_reaches_every_request(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model()
    chat = new_chat(model=model)
    handle = model.register_forward_pre_hook(burst)
    runs = run_all(chat, [ask("a"), ask("b")])
    handle.remove()
    assert [str(run.error) for run in runs] == ["MemoryError: no room"] * 2
    assert chat.complete(ask("a"), max_tokens=2).choices


# --- cancellation -----------------------------------------------------------------------------------------------------

LONG = {"max_tokens": 400, "ignore_eos": True}


def wait_for_streams() -> None:
    for thread in threading.enumerate():
        if thread.name == "chatplan-generate":
            join(thread)


def read(stream: Iterable[Any], count: int) -> None:
    for number, _ in enumerate(stream, start=1):
        if number == count:
            break


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"seed": 1, "logprobs": True}], ids=str)
def test_a_closed_stream_takes_at_most_one_more_step(tiny: Chat, fields: dict[str, Any]) -> None:
    with forwards(tiny, pause=0.002) as calls:
        stream = tiny.stream(ask("x"), **LONG, **fields)
        read(stream, 5)
        stream.close()
        so_far = len(calls)
        wait_for_streams()
    assert so_far <= len(calls) <= so_far + 1
    assert len(calls) < 200
    assert list(stream) == []


def test_leaving_the_loop_is_enough(tiny: Chat) -> None:
    with forwards(tiny, pause=0.002) as calls:
        stream = tiny.stream(ask("x"), **LONG)
        for _ in stream:
            break
        del stream, _
        gc.collect()
        so_far = len(calls)
        wait_for_streams()
    assert len(calls) <= so_far + 1


def test_leaving_a_with_block_is_enough(tiny: Chat) -> None:
    with forwards(tiny, pause=0.002) as calls:
        with tiny.stream(ask("x"), **LONG) as stream:
            read(stream, 3)
        so_far = len(calls)
        wait_for_streams()
    assert len(calls) <= so_far + 1


def test_a_closed_beam_search_stops(tiny: Chat) -> None:
    with forwards(tiny, pause=0.002) as calls:
        stream = tiny.stream(ask("x"), **LONG, use_beam_search=True, n=2)
        wait_until(lambda: len(calls) > 0)
        stream.close()
        so_far = len(calls)
        wait_for_streams()
    assert len(calls) <= so_far + 2  # the search may look at its stopping criteria one step late


def test_a_stream_that_waits_for_another_is_cancelled_before_it_starts(tiny: Chat) -> None:
    with forwards(tiny, pause=0.002) as calls:
        first = tiny.stream(ask("first"), **LONG)
        read(first, 2)
        second = tiny.stream(ask("second " * 5), **LONG)
        second.close()
        first.close()
        wait_for_streams()
    assert len({call["input_ids"].shape[1] for call in calls} - {1}) == 1  # one prompt was read


def test_cancelling_one_of_many_leaves_the_others(tiny: Chat) -> None:
    plans = [tiny.plan(ask(text), temperature=0, max_tokens=30, ignore_eos=True) for text in ("a", "bb", "ccc")]
    runs: list[RowRun] = []

    def sink(chunk: Any) -> None:
        if len(runs[1].rows[0].output_ids) == 4:
            runs[1].cancel()

    runs += [RowRun(plan, tiny.model, sink) for plan in plans]
    tiny.engine.answer(runs)
    assert [len(run.rows[0].output_ids) for run in runs] == [30, 4, 30]
    assert [run.cancelled for run in runs] == [False, True, False]
    assert runs[2].rows[0].output_ids == ids_of(tiny, ask("ccc"), temperature=0, max_tokens=30, ignore_eos=True)


# --- async and threads ------------------------------------------------------------------------------------------------


def test_awaiting_an_answer_leaves_the_loop_free(tiny: Chat) -> None:
    async def main() -> tuple[Any, int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.002)
                ticks += 1

        ticking = asyncio.create_task(tick())
        answer = await tiny.acomplete(ask("x"), temperature=0, max_tokens=20, ignore_eos=True)
        ticking.cancel()
        return answer, ticks

    with forwards(tiny, pause=0.003):
        answer, ticks = asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert answer.text == tiny.complete(ask("x"), temperature=0, max_tokens=20, ignore_eos=True).text
    assert ticks >= 5


def test_async_for_reads_a_stream(tiny: Chat) -> None:
    async def main() -> str:
        async with tiny.stream(ask("x"), seed=5, max_tokens=20) as stream:
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert asyncio.run(asyncio.wait_for(main(), SECONDS)) == tiny.complete(ask("x"), seed=5, max_tokens=20).text


def test_many_tasks_at_once(tiny: Chat) -> None:
    questions = [ask(letter * 3) for letter in "abcdef"]

    async def main() -> list[Any]:
        return await asyncio.gather(*(tiny.acomplete(question, seed=1, max_tokens=6) for question in questions))

    answers = asyncio.run(asyncio.wait_for(main(), SECONDS))
    assert [answer.text for answer in answers] == [tiny.complete(q, seed=1, max_tokens=6).text for q in questions]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancelled_task_stops_computing(tiny: Chat, streamed: bool) -> None:
    async def read_all() -> None:
        async with tiny.stream(ask("x"), **LONG) as stream:
            async for _ in stream:
                pass

    async def answer() -> None:
        await (read_all() if streamed else tiny.acomplete(ask("x"), **LONG))

    async def main() -> int:
        task = asyncio.create_task(answer())
        await asyncio.to_thread(wait_until, lambda: len(calls) >= 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(calls)

    with forwards(tiny, pause=0.002) as calls:
        so_far = asyncio.run(asyncio.wait_for(main(), SECONDS))
        wait_for_streams()
    assert len(calls) <= so_far + 1


def test_an_error_reaches_async_readers(new_chat: NewChat) -> None:
    chat = new_chat(plugins=[Bomb()])

    async def streamed() -> None:
        async for _ in chat.stream(ask("x"), boom="feed", max_tokens=3):
            pass

    for work in (chat.acomplete(ask("x"), boom="feed", max_tokens=3), streamed()):
        with pytest.raises(EngineError, match="in feed"):
            asyncio.run(asyncio.wait_for(work, SECONDS))


def test_threads_get_their_own_answers(tiny: Chat) -> None:
    questions = [ask(chr(97 + at) * (at + 1)) for at in range(12)]

    def work(at: int) -> str:
        fields: dict[str, Any] = {"seed": at, "max_tokens": 8}
        if at % 2:
            return tiny.complete(questions[at], **fields).text
        return "".join(chunk.choices[0].delta.content or "" for chunk in tiny.stream(questions[at], **fields))

    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(work, range(12)))
    assert together == [tiny.complete(questions[at], seed=at, max_tokens=8).text for at in range(12)]


# --- prompt log-probabilities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_prompts_scored_in_chunks(tiny: Chat, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    fields: dict[str, Any] = {"prompt_logprobs": 2, "max_tokens": 1}
    whole = tiny.complete(ask("a question"), **fields).to_dict()["prompt_logprobs"]
    monkeypatch.setattr(scoring, "_CHUNK", chunk)
    parts = tiny.complete(ask("a question"), **fields).to_dict()["prompt_logprobs"]
    assert len(parts) == len(whole) == len(tiny.plan(ask("a question")).prompt.token_ids)
    assert parts[0] is None
    for part, entry in zip(parts[1:], whole[1:], strict=True):
        assert list(part) == list(entry)
        for token, item in part.items():
            assert item == {**entry[token], "logprob": pytest.approx(entry[token]["logprob"], abs=1e-4)}


@pytest.mark.parametrize("top", [0, 2, -1])
def test_a_prompts_log_probabilities_are_the_models(tiny: Chat, new_chat: NewChat, top: int) -> None:
    found = (
        new_chat(max_logprobs=-1)
        .complete(ask("a question"), prompt_logprobs=top, max_tokens=1)
        .to_dict()["prompt_logprobs"]
    )
    ids = torch.tensor([tiny.plan(ask("a question")).prompt.token_ids])
    with torch.no_grad():
        scores = tiny.model.require_module()(input_ids=ids).logits[0].log_softmax(dim=-1)
    assert found[0] is None
    for entries, own, token in zip(found[1:], scores, ids[0, 1:].tolist(), strict=False):
        best = own.argsort(descending=True)[: 300 if top == -1 else top].tolist()
        assert set(map(int, entries)) == {*best, token}
        assert [entry["rank"] for entry in entries.values()][: len(best)] == list(range(1, len(best) + 1))
        for name, entry in entries.items():
            assert entry["logprob"] == pytest.approx(own[int(name)].item(), abs=1e-4)
            # Between two that are as likely but for the last bits, either may come first.
            above, near = (int((own > own[int(name)] + margin).sum()) for margin in (1e-4, -1e-4))
            assert above < entry["rank"] <= near
            assert entry["decoded_token"] == tiny.model.token_text(int(name))
    assert len(found) == ids.shape[1]


# --- kinds of models --------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"temperature": 0},
    {"seed": 3, "n": 2},
    {"use_beam_search": True, "n": 2, "logprobs": True},
    {"temperature": 0, "prompt_logprobs": 1},
]


def answers_of(chat: Chat) -> list[Any]:
    requests = [{"messages": ask("x"), "max_tokens": 5, "return_token_ids": True, **kind} for kind in KINDS]
    return [[choice.token_ids for choice in answer.choices] for answer in chat.complete_batch(requests)]


def test_weights_on_cpu_and_disk(tiny: Chat, new_chat: NewChat, tmp_path: Path) -> None:
    tiny.model.require_module().save_pretrained(tmp_path / "tiny")
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk", "model.norm": "cpu"}
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path / "tiny",
        device_map={**places, "model.rotary_emb": "cpu", "lm_head": "disk"},
        offload_folder=tmp_path / "offload",
    )
    assert model.lm_head.weight.device.type == "meta"
    assert answers_of(new_chat(model=model)) == answers_of(tiny)


def test_quantised_weights(new_model: NewModel, new_chat: NewChat) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        quantise: Any = torch.ao.quantization.quantize_dynamic
        model = quantise(new_model(), {torch.nn.Linear}, dtype=torch.qint8)
    assert "quantized" in type(model.lm_head).__module__
    chat = new_chat(model=model)
    ids = torch.tensor([chat.plan(ask("x")).prompt.token_ids])
    wanted = model(ids).logits[0, -1].argmax().item()
    greedy, *_ = answers_of(chat)
    assert greedy[0][0] == wanted


def test_half_precision(new_model: NewModel, new_chat: NewChat) -> None:
    model = new_model().to(torch.bfloat16)
    chat = new_chat(model=model, defaults={"max_tokens": 5, "ignore_eos": True, "return_token_ids": True})
    answer = chat.complete(ask("x"), temperature=0, logprobs=True)
    tokens, prompt = answer.choices[0].token_ids or [], list(chat.plan(ask("x")).prompt.token_ids)
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1].float()
    picked = scores[torch.arange(5), tokens]
    # The model's own steps, which read a cache, may round otherwise than one pass; nothing is far from the likeliest.
    assert (scores.amax(dim=-1) - picked < 0.2).all()
    logprobs = [entry.logprob for entry in answer.choices[0].logprobs.content]  # type: ignore[union-attr]
    assert logprobs == pytest.approx((picked - scores.logsumexp(dim=-1)).tolist(), abs=0.2)
    # Log-probabilities are float32's: there are more of them than bfloat16 can tell apart.
    assert all(torch.tensor(value).bfloat16().item() != value for value in logprobs)
    one, other = chat.complete(ask("x"), seed=3, n=2).choices
    assert one.token_ids != other.token_ids
    assert (one.token_ids, other.token_ids) == tuple(c.token_ids for c in chat.complete(ask("x"), seed=3, n=2).choices)


def test_a_plan_alone_runs_on_no_engine(tiny: Chat) -> None:
    """Plans are data: making one runs nothing."""
    with forwards(tiny) as calls:
        plan = tiny.plan(ask("x"))
    assert isinstance(plan, GenerationPlan)
    assert calls == []


def test_errors_are_of_one_tree() -> None:
    assert issubclass(EngineError, ChatplanError)
