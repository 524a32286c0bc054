"""The engine on continuous batching: the same answers as ``generate``, at any step, in any company."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LogitsProcessor, MambaConfig, MambaForCausalLM, StoppingCriteria
from waiting import SECONDS, join, wait_until

from chatplan import Chat, ModelInfo, Prompt, RequestError, Settings, Stage, hookimpl
from chatplan.engine.generate import GenerateEngine
from chatplan.engine.manage import PAGE
from chatplan.errors import ChatplanError, EngineError
from chatplan.folding import fold
from chatplan.run import RowRun, Run
from chatplan.standin import stand_in

if TYPE_CHECKING:
    from chatplan.engine.continuous import ContinuousEngine
else:
    # Older transformers have no continuous batching to build on, and leave these tests out.
    ContinuousEngine = pytest.importorskip("chatplan.engine.continuous", exc_type=ImportError).ContinuousEngine

pytestmark = pytest.mark.dev_only

Make = Callable[..., Chat]


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def make(new_model: Callable[[], Any]) -> Iterator[Make]:
    """Makes chats on the tiny model, each with its own copy; they are closed at the end."""
    made: list[Chat] = []

    def new(*plugins: Any, engine: str = "continuous", model: Any = None, **settings: Any) -> Chat:
        about = ModelInfo.of(model or new_model(), stand_in().tokenizer, Settings(**settings), name="tests/tiny")
        made.append(Chat(about, plugins=plugins, engine=engine))
        return made[-1]

    gc.collect()
    gc.freeze()  # transformers collects garbage whenever it stops, through all that is imported
    yield new
    for chat in made:
        chat.close()
    gc.unfreeze()


@pytest.fixture(scope="module")
def chat(make: Make) -> Chat:
    return make()


@pytest.fixture(scope="module")
def generate(make: Make) -> Chat:
    return make(engine="generate")


def engine_of(chat: Chat) -> ContinuousEngine:
    assert isinstance(chat.engine, ContinuousEngine)
    return chat.engine


def idle(chat: Chat) -> bool:
    stats = chat.engine.stats()
    return (stats.waiting, stats.running, stats.cache_usage) == (0, 0, 0.0)


# --- the same answers -------------------------------------------------------------------------------------------------

LONG = "a question that takes more than a page of the cache, and then some more " * 2
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "sampled": {"seed": 1, "temperature": 1.3, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
    "choices": {"seed": 2, "n": 3, "messages": ask(LONG)},
    "best of": {"seed": 3, "best_of": 3, "n": 2},
    "beams": {"use_beam_search": True, "n": 2, "best_of": 3},
    "penalties": {"seed": 4, "repetition_penalty": 1.3, "frequency_penalty": 0.7, "presence_penalty": 0.2},
    "bias": {"seed": 5, "logit_bias": {"65": 8}, "bad_words": ["b"]},
    "allowed": {"seed": 6, "allowed_token_ids": [65, 66, 67]},
    "regex": {"seed": 7, "guided_regex": "[a-c]{4,6}"},
    "choice": {"seed": 8, "guided_choice": ["left", "right"]},
    "json": {"seed": 9, "guided_json": {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}},
    "logprobs": {"seed": 10, "logprobs": True, "top_logprobs": 3},
    "prompt logprobs": {"seed": 11, "prompt_logprobs": 2, "max_tokens": 3},
    "stop": {"seed": 12, "temperature": 2, "stop": ["e", "a"], "max_tokens": 60},
    "stop tokens": {"seed": 13, "temperature": 2, "stop_token_ids": [101, 97], "min_tokens": 2},
    "prefill": {"seed": 14, "messages": [*ask("x"), {"role": "assistant", "content": "Well"}],
                "add_generation_prompt": False, "continue_final_message": True, "echo": True},
    "no end": {"seed": 15, "ignore_eos": True, "max_tokens": 30},
    "truncated": {"seed": 16, "truncate_prompt_tokens": 5, "messages": ask(LONG)},
    "ids": {"seed": 17, "return_token_ids": True, "return_tokens_as_token_ids": True, "logprobs": True},
}  # fmt: skip


def request(name: str) -> dict[str, Any]:
    return {"messages": ask(f"say {name}"), "max_tokens": 12, "request_id": "same", **REQUESTS[name]}


def close_to(one: Any, other: Any) -> bool:
    """Equal, but for the last bits of numbers."""
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, abs=1e-4)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(close_to(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(close_to, one, other))
    return bool(one == other)


def assert_same(answer: Any, other: Any) -> None:
    first, second = ({**each.to_dict(), "created": 0} for each in (answer, other))
    assert close_to(first, second), f"{first}\n{second}"


@pytest.fixture(scope="module")
def expected(generate: Chat) -> Callable[[str], Any]:
    """The answers of ``generate`` to the requests of these names, each alone; made once."""
    return cache(lambda name: generate.complete(request(name)))


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_is_that_of_generate(chat: Chat, expected: Callable[[str], Any], name: str) -> None:
    assert_same(chat.complete(request(name)), expected(name))


def test_company_changes_nothing(chat: Chat, expected: Callable[[str], Any]) -> None:
    names = [*REQUESTS] * 2
    for answer, name in zip(chat.complete_batch([request(name) for name in names]), names, strict=True):
        assert_same(answer, expected(name))


def test_requests_that_come_while_others_run(chat: Chat, expected: Callable[[str], Any]) -> None:
    async def all_of_them() -> list[Any]:
        async def later(position: int, name: str) -> Any:
            await asyncio.sleep(0.01 * position)
            return await chat.acomplete(request(name))

        return await asyncio.gather(*(later(position, name) for position, name in enumerate(REQUESTS)))

    for name, answer in zip(REQUESTS, asyncio.run(asyncio.wait_for(all_of_them(), SECONDS)), strict=True):
        assert_same(answer, expected(name))


@contextmanager
def steps(chat: Chat) -> Iterator[list[int]]:
    """How many tokens the model reads in each of its steps."""
    read: list[int] = []
    module: Any = chat.model.require_module()
    handle = module.model.embed_tokens.register_forward_pre_hook(lambda layer, args: read.append(args[0].numel()))
    try:
        yield read
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("settings", "most"),
    [({"max_num_batched_tokens": 7}, 7), ({"max_num_seqs": 2, "max_num_batched_tokens": 64}, 64),
     ({"pack_weights": True}, 512), ({"enable_prefix_caching": False}, 512)],
    ids=str,
)  # fmt: skip
def test_settings_change_no_answer(make: Make, expected: Any, settings: dict[str, Any], most: int) -> None:
    other = make(**settings)
    names = ["greedy", "sampled", "choices", "penalties", "regex", "truncated"]
    with steps(other) as read:
        answers = other.complete_batch([request(name) for name in names])
    for answer, name in zip(answers, names, strict=True):
        assert_same(answer, expected(name))
    assert max(read) <= most


@pytest.mark.parametrize("most", [1, 3, 64])
def test_so_many_rows_run_at_once(make: Make, most: int) -> None:
    chat = make(max_num_seqs=most)
    with steps(chat) as read:
        chat.complete_batch([ask("x")] * 5, max_tokens=40, ignore_eos=True)
    prompt = len(chat.plan(ask("x")).prompt.token_ids)
    assert max(tokens for tokens in read if tokens < prompt) == min(most, 5)


def test_the_loop_says_how_busy_it_is(make: Make) -> None:
    chat = make(max_num_seqs=2, max_model_len=256, kv_cache_bytes=SMALL["kv_cache_bytes"], enable_prefix_caching=False)
    begun, ended = [], list[Any]()
    gate = threading.Event()

    def sink(chunk: Any) -> None:
        begun.append(chunk)
        if len(begun) == 4:  # both have their role, and one its first token: the loop's own thread waits here
            gate.wait(SECONDS)

    chat.start(chat.plan(ask("x" * 40), n=2, max_tokens=2, ignore_eos=True), sink, ended.append)
    wait_until(lambda: len(begun) == 4)
    for _ in range(3):
        chat.start(chat.plan(ask("y"), max_tokens=2), lambda chunk: None, ended.append)
    stats = chat.engine.stats()
    gate.set()
    wait_until(lambda: len(ended) == 4)
    assert (stats.waiting, stats.running) == (3, 2)
    prompt = len(chat.plan(ask("x" * 40)).prompt.token_ids)
    assert stats.cache_usage == pytest.approx(2 * -(-prompt // PAGE) / (512 / PAGE))
    wait_until(lambda: idle(chat))


def test_a_stream_is_its_answer_in_pieces(chat: Chat) -> None:
    for name in ("sampled", "choices", "stop"):
        whole = chat.complete(request(name))
        texts = [""] * len(whole.choices)
        for chunk in chat.stream(request(name)):
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
        assert texts == [choice.message.content for choice in whole.choices]


# --- plugins ----------------------------------------------------------------------------------------------------------


class Push(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        assert input_ids.shape[0] == scores.shape[0] == 1
        return scores.index_fill(1, torch.tensor([70 + input_ids.shape[1] % 5]), 1e4)


class Sixth(StoppingCriteria):
    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        return torch.tensor([input_ids.shape[1] - self.prompt >= 6])


class Theirs:
    name = "theirs"

    @hookimpl
    def logits_processors(self, request: Any) -> Iterable[Any] | None:
        return [(Stage.BIAS, Push())] if request.user == "push" else None

    @hookimpl
    def stopping_criteria(self, request: Any, prompt: Any) -> Iterable[Any] | None:
        return [Sixth(len(prompt.token_ids))] if request.user == "sixth" else None

    @hookimpl
    def generation_config(self, request: Any) -> dict[str, Any] | None:
        return {"no_repeat_ngram_size": 1} if request.user == "config" else None


@pytest.mark.parametrize("user", ["push", "sixth", "config"])
def test_what_third_parties_add_works_on_its_row_alone(make: Make, user: str) -> None:
    asked = [
        {"messages": ask("x"), "max_tokens": 9, "seed": 4, "ignore_eos": True, "user": name} for name in (user, "")
    ]
    here, there = make(Theirs()).complete_batch(asked), make(Theirs(), engine="generate").complete_batch(asked)
    for one, other in zip(here, there, strict=True):
        assert one.choices[0].message.content == other.choices[0].message.content
        assert one.usage == other.usage


class Breaks:
    name = "breaks"

    @hookimpl
    def logits_processors(self, request: Any) -> Iterable[Any] | None:
        return [(Stage.BIAS, Broken())] if request.user == "broken" else None


class Broken(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        raise ValueError("no idea")


def test_a_plugin_that_raises_ends_its_request_alone(make: Make) -> None:
    chat = make(Breaks())
    runs = [
        RowRun(chat.plan(ask("x"), max_tokens=5, user=user), chat.model, lambda chunk: None) for user in ("", "broken")
    ]
    chat.engine.answer(runs)
    assert runs[0].error is None
    assert str(runs[1].error) == "ValueError: no idea"
    wait_until(lambda: idle(chat))


# --- coming and going -------------------------------------------------------------------------------------------------


def test_an_ended_request_gives_everything_back(chat: Chat) -> None:
    chat.complete(ask(LONG), n=3, seed=1, max_tokens=20)
    wait_until(lambda: idle(chat))


@pytest.mark.parametrize("running", [0, 1, 10])
def test_a_reader_who_leaves_frees_the_cache(chat: Chat, running: int) -> None:
    streams = [chat.stream(ask(LONG), n=2, max_tokens=800, ignore_eos=True) for _ in range(5)]
    wait_until(lambda: chat.engine.stats().running >= running)
    for stream in streams:
        stream.close()
    wait_until(lambda: idle(chat))


def test_a_row_that_is_cancelled_while_it_enters_does_not_run(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    chat = make()
    add = engine_of(chat).loop.add

    def cancelled_before(ticket: Any) -> bool:
        ticket.row.cancel()
        return add(ticket)

    monkeypatch.setattr(engine_of(chat).loop, "add", cancelled_before)
    run = RowRun(chat.plan(ask("x"), max_tokens=800, ignore_eos=True), chat.model, lambda chunk: None)
    chat.engine.answer([run])
    assert run.cancelled
    wait_until(lambda: idle(chat))


def test_cancelling_an_async_answer(chat: Chat) -> None:
    async def leave() -> None:
        task = asyncio.ensure_future(chat.acomplete(ask("x"), max_tokens=800, ignore_eos=True))
        while chat.engine.stats().running == 0:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(leave(), SECONDS))
    wait_until(lambda: idle(chat))


def test_a_request_that_was_cancelled_before_it_was_submitted(chat: Chat) -> None:
    run = RowRun(chat.plan(ask(LONG), n=3), chat.model, lambda chunk: None)
    run.cancel()
    chat.engine.answer([run])
    assert run.cancelled
    assert run.error is None


def test_choices_read_their_prompt_once(make: Make) -> None:
    chat = make()
    plan = chat.plan(ask(LONG), n=4, seed=1, max_tokens=2, ignore_eos=True)
    with steps(chat) as read:
        chat.engine.answer([RowRun(plan, chat.model, lambda chunk: None)])
    prompt = len(plan.prompt.token_ids)
    rest = prompt - (prompt - 1) // PAGE * PAGE  # the last page is not whole, and so not shared
    assert sum(read) == prompt + 3 * rest + 4 * 1


def prefills(chat: Chat, *requests: dict[str, Any]) -> list[int]:
    """How many prompt tokens the model read for each of the requests, one after another."""
    counts = []
    for asked in requests:
        with steps(chat) as read:
            chat.complete({"messages": ask(LONG), "max_tokens": 1, **asked})
        counts.append(sum(read))
    return counts


def test_salts_keep_cached_prompts_apart(make: Make) -> None:
    first, again, salted, salted_again, other, plain = prefills(
        make(), {}, {}, {"cache_salt": "a"}, {"cache_salt": "a"}, {"cache_salt": "b"}, {}
    )
    assert first == salted == other
    assert again == salted_again == plain < first
    assert len(set(prefills(make(enable_prefix_caching=False), {}, {}, {"cache_salt": "a"}))) == 1


def test_answers_from_shared_prompts_are_the_same(make: Make, generate: Chat) -> None:
    chat = make()
    asked = [{"messages": ask(LONG + tail), "seed": 3, "max_tokens": 15} for tail in ("one", "two", "one", "")]
    for each in asked:
        assert_same(chat.complete({**each, "request_id": "r"}), generate.complete({**each, "request_id": "r"}))


# --- a full cache -----------------------------------------------------------------------------------------------------

SMALL = {"max_model_len": 256, "kv_cache_bytes": 2 * 2 * 2 * 8 * 4 * 256 * 2}
"""Room for 512 tokens: two layers of keys and values, two heads of eight float32 numbers each."""


def test_more_than_the_cache_holds_waits_its_turn(make: Make, generate: Chat) -> None:
    chat = make(**SMALL)
    asked = [{"messages": ask(f"{i} " * 30), "seed": i, "max_tokens": 80, "ignore_eos": True} for i in range(6)]
    for answer, each in zip(chat.complete_batch(asked), asked, strict=True):
        assert answer.text == generate.complete(each).text
    wait_until(lambda: idle(chat))


def test_a_cache_that_cannot_hold_one_answer_is_refused(make: Make) -> None:
    with pytest.raises(EngineError, match="raise kv_cache_bytes or lower max_model_len"):
        make(kv_cache_bytes=SMALL["kv_cache_bytes"])


# --- priority ---------------------------------------------------------------------------------------------------------


def test_priority_is_refused_without_its_policy(chat: Chat, generate: Chat) -> None:
    for each in (chat, generate):
        with pytest.raises(RequestError, match="got 1, but priority scheduling is not enabled") as caught:
            each.plan(ask("x"), priority=1)
        assert caught.value.param == "priority"
        assert each.plan(ask("x"), priority=0).request.priority == 0


def order_of_ends(chat: Chat, *requests: dict[str, Any], texts: list[str] | None = None, after: int = 2) -> list[int]:
    """In which order answers end when all requests are there before the first goes on after so many chunks."""
    ended: list[int] = []
    over: list[Run] = []
    started = threading.Event()
    chunks: list[list[Any]] = [[] for _ in requests]

    def sink(position: int, chunk: Any) -> None:
        chunks[position].append(chunk)
        if position == 0 and len(chunks[0]) == after:  # the loop's own thread waits here
            assert started.wait(SECONDS)
        if chunk.choices and chunk.choices[0].finish_reason:
            ended.append(position)

    plans = [chat.plan({"messages": ask("x"), "ignore_eos": True, **each}) for each in requests]
    chat.start(plans[0], partial(sink, 0), over.append)
    wait_until(lambda: len(chunks[0]) >= after)
    for position, plan in enumerate(plans[1:], start=1):
        chat.start(plan, partial(sink, position), over.append)
    started.set()
    wait_until(lambda: len(over) == len(requests))
    assert [run.error for run in over] == [None] * len(requests)
    if texts is not None:
        texts += [fold(each).text or "" for each in chunks]
    return ended


def test_the_most_urgent_goes_first_and_equals_in_order(make: Make) -> None:
    chat = make(scheduling_policy="priority", max_num_seqs=1)
    requests = [{"max_tokens": 40}, *({"priority": level, "max_tokens": 5} for level in (5, 5, 1, -3))]
    assert order_of_ends(chat, *requests) == [4, 0, 3, 1, 2]
    fifo = make(max_num_seqs=1)
    assert order_of_ends(fifo, {"max_tokens": 40}, *([{"max_tokens": 5}] * 3)) == [0, 1, 2, 3]


def test_an_urgent_request_does_not_wait_for_the_cache_of_others(make: Make) -> None:
    chat = make(scheduling_policy="priority", enable_prefix_caching=False, **SMALL)
    # Two choices hold nearly all of the cache when the urgent request comes, and grow no further.
    held = {"messages": ask("x" * 180), "n": 2, "max_tokens": 20, "priority": 3}
    urgent = {"messages": ask("y" * 180), "max_tokens": 3, "priority": -1}
    assert order_of_ends(chat, held, urgent, after=4) == [1, 0, 0]
    wait_until(lambda: idle(chat))


def test_equals_do_not_take_the_cache_of_each_other(make: Make) -> None:
    chat = make(scheduling_policy="priority", enable_prefix_caching=False, **SMALL)
    requests = [{"messages": ask("x" * 180), "max_tokens": 5, "priority": 1}] * 4  # two of them fit
    prompt = len(chat.plan(requests[0]).prompt.token_ids)
    with steps(chat) as read:
        assert order_of_ends(chat, *requests) == [0, 1, 2, 3]
    assert sum(read) == 4 * (prompt + 5 - 1)  # nobody had to read anything again


def test_an_urgent_request_takes_the_cache_of_others(make: Make, generate: Chat) -> None:
    chat = make(scheduling_policy="priority", **SMALL)
    long = {"messages": ask("x" * 60), "max_tokens": 150, "seed": 1, "ignore_eos": True, "priority": 2}
    urgent = {"messages": ask("y" * 200), "max_tokens": 3, "seed": 2, "ignore_eos": True, "priority": -1}
    answers: dict[int, str] = {}

    async def both() -> None:
        async def one(position: int, wish: dict[str, Any]) -> None:
            answers[position] = (await chat.acomplete(wish)).text or ""

        slow = [asyncio.ensure_future(one(position, long)) for position in (0, 1)]
        while engine_of(chat).stats().cache_usage < 0.5:
            await asyncio.sleep(0.001)
        await one(2, urgent)
        await asyncio.gather(*slow)

    asyncio.run(asyncio.wait_for(both(), SECONDS))
    assert next(iter(answers)) == 2
    plain = {key: value for key, value in long.items() if key != "priority"}
    assert answers[0] == answers[1] == generate.complete(plain).text


def test_an_urgent_answer_takes_the_cache_that_it_grows_into(make: Make, generate: Chat) -> None:
    chat = make(scheduling_policy="priority", **SMALL)
    texts: list[str] = []
    requests = [
        {"messages": ask(name * 40), "max_tokens": length, "priority": priority, "seed": 1}
        for name, length, priority in (("a", 180, 3), ("b", 170, 3), ("c", 190, -1))
    ]
    # Prompts and answers of two fit. So the younger of the less urgent ones gives way, though it is the shortest, and
    # comes back when the elder one has ended; the urgent one waits for nobody.
    assert order_of_ends(chat, *requests, texts=texts) == [0, 2, 1]
    wait_until(lambda: idle(chat))
    for text, each in zip(texts, requests, strict=True):
        assert text == generate.complete({**each, "priority": 0}, ignore_eos=True).text


# --- beside the loop --------------------------------------------------------------------------------------------------


def rendering(**inputs: Any) -> Any:
    """A plugin whose prompts have further inputs of the model, as those with images have."""
    return SimpleNamespace(name="rendering", render_prompt=hookimpl(lambda: Prompt((65, 66, 67), inputs=inputs)))


@pytest.mark.parametrize(
    ("plugins", "fields", "where"),
    [
        ([], {}, "chatplan_paged"),
        ([], {"n": 2, "seed": 1, "logprobs": True}, "chatplan_paged"),
        ([rendering()], {}, "chatplan_paged"),
        ([], {"use_beam_search": True, "n": 2}, "sdpa"),
        ([rendering(use_cache=True)], {}, "sdpa"),
        ([SimpleNamespace(name="x", generation_config=hookimpl(lambda: {"no_repeat_ngram_size": 2}))], {}, "sdpa"),
    ],
    ids=["plain", "choices", "prompt", "beams", "inputs", "config"],
)
def test_what_the_loop_cannot_do_runs_on_generate(
    make: Make, plugins: list[Any], fields: dict[str, Any], where: str
) -> None:
    chat = make(*plugins)
    module: Any = chat.model.require_module()
    seen: set[str] = set()
    handle = module.register_forward_pre_hook(lambda *args: seen.add(module.config._attn_implementation))
    chat.complete(ask("x"), max_tokens=3, **fields)
    handle.remove()
    assert seen == {where}
    assert module.config._attn_implementation == "chatplan_paged"


def test_what_runs_on_generate_goes_by_urgency(make: Make) -> None:
    chat = make(scheduling_policy="priority")
    module: Any = chat.model.require_module()
    gate, ended = threading.Event(), list[Any]()
    read: list[int] = []

    def note(model: Any, args: Any, kwargs: Any) -> None:
        read.append(kwargs["input_ids"].shape[1])
        assert gate.wait(SECONDS)

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    wishes = [{"priority": level, "use_beam_search": True, "n": 2} for level in (0, 2, -1)]
    plans = [chat.plan(ask("x" * at), max_tokens=2, ignore_eos=True, **wish) for at, wish in enumerate(wishes, 1)]
    plans.append(chat.plan(ask("x" * 9), max_tokens=1, prompt_logprobs=1, priority=-2))
    for waiting, plan in enumerate(plans[:3]):
        chat.start(plan, lambda chunk: None, ended.append)
        wait_until(lambda: len(engine_of(chat)._pause) == waiting and bool(read))  # noqa: B023
    asking = threading.Thread(target=lambda: chat.engine.prompt_logprobs(plans[3]))  # type: ignore[attr-defined]
    asking.start()
    wait_until(lambda: len(engine_of(chat)._pause) == 3)
    gate.set()
    wait_until(lambda: len(ended) == 3)
    join(asking)
    handle.remove()
    lengths = [len(plan.prompt.token_ids) for plan in plans]
    assert [lengths.index(length) for length in read if length > 1] == [0, 3, 2, 1]


class Clock:
    """Stands for the module `time`: it is as late as it is said to be, and sleeping is written down."""

    def __init__(self, asleep: Callable[[], None] = lambda: None) -> None:
        self.now, self.slept, self.asleep = 0.0, list[float](), asleep

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.asleep()


@pytest.mark.parametrize(
    ("running", "waiting", "slept"), [(True, True, [3.0]), (True, False, []), (False, True, []), (False, False, [])]
)
def test_between_two_pauses_the_loop_has_as_much_time(
    make: Make, monkeypatch: pytest.MonkeyPatch, running: bool, waiting: bool, slept: list[float]
) -> None:
    chat = make()
    engine = engine_of(chat)
    stream = chat.stream(ask("x"), max_tokens=800, ignore_eos=True) if running else None
    wait_until(lambda: engine.stats().running == running)

    def asleep() -> None:
        # Whoever comes next still waits, and the loop goes on meanwhile.
        assert len(engine._pause) == 1
        before = len(rows[0].output_ids)
        wait_until(lambda: len(rows[0].output_ids) > before)

    rows = stream.run.rows if stream is not None else []  # type: ignore[attr-defined]
    clock = Clock(asleep)
    monkeypatch.setattr("chatplan.engine.continuous.time", clock)
    other = threading.Thread(target=pause, args=(engine,))
    with engine._paused(0):
        if waiting:
            other.start()
            wait_until(lambda: len(engine._pause) == 1)
        clock.now += 3.0
    if waiting:
        join(other)
    if stream is not None:
        stream.close()
    assert clock.slept == slept


def pause(engine: ContinuousEngine) -> None:
    with engine._paused(0):
        pass


# --- what may go wrong ------------------------------------------------------------------------------------------------


def test_a_model_that_breaks_fails_what_runs_and_serves_again(make: Make) -> None:
    chat = make()
    module: Any = chat.model.require_module()

    def burst(layer: Any, args: Any) -> None:
        raise RuntimeError("out of order")

    handle = module.model.embed_tokens.register_forward_pre_hook(burst)
    with pytest.raises(EngineError, match="RuntimeError: out of order"):
        chat.complete_batch([ask("x"), ask("y")])
    runs = [RowRun(chat.plan(ask(LONG), n=3), chat.model, lambda chunk: None) for _ in range(2)]
    chat.engine.answer(runs)
    assert all(str(run.error) == "RuntimeError: out of order" for run in runs)
    handle.remove()
    wait_until(lambda: not engine_of(chat).loop.manager.is_running())
    assert (
        len(chat.complete(ask("x"), max_tokens=2, ignore_eos=True, return_token_ids=True).choices[0].token_ids or [])
        == 2
    )
    wait_until(lambda: idle(chat))


def test_closing_fails_what_runs_and_gives_the_model_back(make: Make) -> None:
    chat = make(pack_weights=True)
    module: Any = chat.model.require_module()
    before = {
        name: value.clone() for name, value in make(engine="generate").model.require_module().state_dict().items()
    }
    stream = chat.stream(ask(LONG), n=3, max_tokens=800, ignore_eos=True)
    next(stream)
    chat.close()
    with pytest.raises(ChatplanError):
        list(stream)
    with pytest.raises(EngineError, match="closed"):
        chat.complete(ask("x"))
    assert module.config._attn_implementation == "sdpa"
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_no_rows_are_over_at_once(chat: Chat) -> None:
    assert chat.complete_batch([]) == []


def test_closing_while_choices_wait_for_their_prompt(make: Make) -> None:
    for wait in (0.0, 0.002, 0.01):
        chat = make()
        streams = [chat.stream(ask(LONG), n=3, max_tokens=800, ignore_eos=True) for _ in range(4)]
        time.sleep(wait)
        chat.close()
        for stream in streams:
            with pytest.raises(EngineError):
                list(stream)


class BreaksLater:
    name = "breaks-later"

    @hookimpl
    def stopping_criteria(self, request: Any, prompt: Any) -> Iterable[Any] | None:
        return [Once()] if request.user == "broken" else None


class Once(StoppingCriteria):
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.calls == 5:
            raise ValueError("the fifth")
        return torch.tensor([False])


def test_a_failed_choice_ends_the_others_of_its_request(make: Make) -> None:
    chat = make(BreaksLater())
    run = RowRun(
        chat.plan(ask("x"), n=3, max_tokens=800, ignore_eos=True, user="broken"), chat.model, lambda chunk: None
    )
    chat.engine.answer([run])
    assert str(run.error) == "ValueError: the fifth"
    assert sum(len(row.output_ids) for row in run.rows) < 30
    wait_until(lambda: idle(chat))


def test_an_engine_nobody_uses_is_garbage(new_model: Callable[[], Any]) -> None:
    chat = Chat(ModelInfo.of(new_model(), stand_in().tokenizer), engine="continuous")
    chat.complete(ask("x"), max_tokens=2)
    manager, gone = engine_of(chat).loop.manager, weakref.ref(chat.engine)
    wait_until(partial(idle, chat))
    del chat
    gc.collect()
    assert gone() is None
    wait_until(lambda: not manager.is_running())


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_interpreter_does_not_wait_for_the_loop() -> None:
    program = """
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from chatplan import Chat, ModelInfo
from chatplan.standin import stand_in
model = LlamaForCausalLM(LlamaConfig(vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, max_position_embeddings=1024, bos_token_id=None, eos_token_id=257, pad_token_id=256))
chat = Chat(ModelInfo.of(model, stand_in().tokenizer), engine="continuous")
stream = chat.stream([{"role": "user", "content": "x"}], max_tokens=800, ignore_eos=True)
next(stream)
print("leaving", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stdout) == (0, "leaving\n"), done.stderr


def recurrent() -> Any:
    config = MambaConfig(vocab_size=300, hidden_size=16, state_size=4, num_hidden_layers=1, pad_token_id=256,
                         bos_token_id=256, eos_token_id=257)  # fmt: skip
    return MambaForCausalLM(config)


def test_auto_is_generate_unless_the_model_is_for_requests_alone(make: Make, new_model: Callable[[], Any]) -> None:
    assert isinstance(make(engine="auto").engine, GenerateEngine)
    info = ModelInfo.of(new_model(), stand_in().tokenizer)
    chat = Chat(info, options={"serving": True})
    assert isinstance(chat.engine, ContinuousEngine)
    chat.close()


def test_models_it_cannot_run_go_to_generate_and_it_says_so(
    new_model: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    spread, asking = new_model(), new_model()
    spread.hf_device_map = {"model.layers.0": "cpu", "model.layers.1": "disk"}
    asking.generation_config.no_repeat_ngram_size = 3
    for model, reason in (
        (recurrent(), "no cache of keys"),
        (spread, "spread over cpu, disk"),
        (asking, "NoRepeatNGram"),
    ):
        info = ModelInfo.of(model, stand_in().tokenizer)
        with pytest.raises(EngineError, match=reason):
            Chat(info, engine="continuous")
        caplog.clear()
        assert isinstance(Chat(info, options={"serving": True}).engine, GenerateEngine)
        assert len([record for record in caplog.records if reason in record.getMessage()]) == 1
