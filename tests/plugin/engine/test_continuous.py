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
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import LogitsProcessor, MambaConfig, MambaForCausalLM, StoppingCriteria

from chatplan import Chat, ModelInfo, RequestError, Settings, Stage, hookimpl
from chatplan.engine.generate import GenerateEngine
from chatplan.engine.manage import PAGE
from chatplan.errors import ChatplanError, EngineError
from chatplan.run import RowRun, Run
from chatplan.standin import stand_in

if TYPE_CHECKING:
    from chatplan.engine.continuous import ContinuousEngine
else:
    # Older transformers have no continuous batching to build on, and leave these tests out.
    ContinuousEngine = pytest.importorskip("chatplan.engine.continuous", exc_type=ImportError).ContinuousEngine

pytestmark = pytest.mark.dev_only

Make = Callable[..., Chat]
WAIT = 20


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

    yield new
    for chat in made:
        chat.close()


@pytest.fixture(scope="module")
def chat(make: Make) -> Chat:
    return make()


@pytest.fixture(scope="module")
def generate(make: Make) -> Chat:
    return make(engine="generate")


def engine_of(chat: Chat) -> ContinuousEngine:
    assert isinstance(chat.engine, ContinuousEngine)
    return chat.engine


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


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


@pytest.mark.parametrize("name", REQUESTS)
def test_an_answer_is_that_of_generate(chat: Chat, generate: Chat, name: str) -> None:
    assert_same(chat.complete(request(name)), generate.complete(request(name)))


def test_company_changes_nothing(chat: Chat, generate: Chat) -> None:
    many = [request(name) for name in REQUESTS] * 2
    for answer, asked in zip(chat.complete_batch(many), many, strict=True):
        assert_same(answer, generate.complete(asked))


def test_requests_that_come_while_others_run(chat: Chat, generate: Chat) -> None:
    async def all_of_them() -> list[Any]:
        async def later(position: int, name: str) -> Any:
            await asyncio.sleep(0.01 * position)
            return await chat.acomplete(request(name))

        return await asyncio.gather(*(later(position, name) for position, name in enumerate(REQUESTS)))

    for name, answer in zip(REQUESTS, asyncio.run(all_of_them()), strict=True):
        assert_same(answer, generate.complete(request(name)))


@pytest.mark.parametrize("settings", [{"max_num_batched_tokens": 7}, {"max_num_seqs": 2}, {"pack_weights": True},
                                      {"enable_prefix_caching": False}], ids=str)  # fmt: skip
def test_settings_change_no_answer(make: Make, generate: Chat, settings: dict[str, Any]) -> None:
    other = make(**settings)
    names = ["greedy", "sampled", "choices", "penalties", "regex", "truncated"]
    for answer, name in zip(other.complete_batch([request(name) for name in names]), names, strict=True):
        assert_same(answer, generate.complete(request(name)))


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
    until(lambda: idle(chat))


# --- coming and going -------------------------------------------------------------------------------------------------


def test_an_ended_request_gives_everything_back(chat: Chat) -> None:
    chat.complete(ask(LONG), n=3, seed=1, max_tokens=20)
    until(lambda: idle(chat))


@pytest.mark.parametrize("wait", [0.0, 0.05])
def test_a_reader_who_leaves_frees_the_cache(chat: Chat, wait: float) -> None:
    streams = [chat.stream(ask(LONG), n=2, max_tokens=800, ignore_eos=True) for _ in range(5)]
    time.sleep(wait)
    assert not idle(chat)
    for stream in streams:
        stream.close()
    until(lambda: idle(chat))


def test_cancelling_an_async_answer(chat: Chat) -> None:
    async def leave() -> None:
        task = asyncio.ensure_future(chat.acomplete(ask("x"), max_tokens=800, ignore_eos=True))
        while chat.engine.stats().running == 0:
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(leave())
    until(lambda: idle(chat))


def test_a_request_that_was_cancelled_before_it_was_submitted(chat: Chat) -> None:
    run = RowRun(chat.plan(ask(LONG), n=3), chat.model, lambda chunk: None)
    run.cancel()
    chat.engine.answer([run])
    assert run.cancelled
    assert run.error is None


def test_choices_read_their_prompt_once(make: Make) -> None:
    chat = make()
    read: list[int] = []
    module: Any = chat.model.require_module()
    handle = module.model.embed_tokens.register_forward_pre_hook(lambda layer, args: read.append(args[0].numel()))
    plan = chat.plan(ask(LONG), n=4, seed=1, max_tokens=2, ignore_eos=True)
    run = RowRun(plan, chat.model, lambda chunk: None)
    chat.engine.answer([run])
    handle.remove()
    prompt = len(plan.prompt.token_ids)
    rest = prompt - (prompt - 1) // PAGE * PAGE  # the last page is not whole, and so not shared
    assert sum(read) == prompt + 3 * rest + 4 * 1


def prefills(chat: Chat, *requests: dict[str, Any]) -> list[int]:
    """How many prompt tokens the model read for each of the requests, one after another."""
    read: list[int] = []
    module: Any = chat.model.require_module()
    handle = module.model.embed_tokens.register_forward_pre_hook(lambda layer, args: read.append(args[0].numel()))
    counts = []
    for asked in requests:
        read.clear()
        chat.complete({"messages": ask(LONG), "max_tokens": 1, **asked})
        counts.append(sum(read))
    handle.remove()
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
    asked = [{"messages": ask(f"{i} " * 30), "seed": i, "max_tokens": 120, "ignore_eos": True} for i in range(8)]
    for answer, each in zip(chat.complete_batch(asked), asked, strict=True):
        assert answer.text == generate.complete(each).text
    until(lambda: idle(chat))


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


def order_of_ends(chat: Chat, *requests: dict[str, Any], after: int = 2) -> list[int]:
    """In which order requests end when all are there before the first has written ``after`` tokens."""
    ended: list[int] = []
    started, over = threading.Event(), threading.Barrier(2)
    seen = [0]

    def first(chunk: Any) -> None:
        seen[0] += 1
        if seen[0] == after:
            started.wait(WAIT)

    def finish(position: int) -> Callable[[Run], None]:
        def done(run: Run) -> None:
            assert run.error is None, run.error
            ended.append(position)
            if len(ended) == len(requests):
                over.wait(WAIT)

        return done

    plans = [chat.plan({"messages": ask("x"), "ignore_eos": True, **each}) for each in requests]
    chat.start(plans[0], first, finish(0))
    until(lambda: seen[0] >= after)
    for position, plan in enumerate(plans[1:], start=1):
        chat.start(plan, lambda chunk: None, finish(position))
    started.set()
    over.wait(WAIT)
    return ended


def test_the_most_urgent_goes_first_and_equals_in_order(make: Make) -> None:
    chat = make(scheduling_policy="priority", max_num_seqs=1)
    requests = [{"max_tokens": 40}, *({"priority": level, "max_tokens": 5} for level in (5, 5, 1, -3))]
    assert order_of_ends(chat, *requests) == [4, 0, 3, 1, 2]
    fifo = make(max_num_seqs=1)
    assert order_of_ends(fifo, {"max_tokens": 40}, *([{"max_tokens": 5}] * 3)) == [0, 1, 2, 3]


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

    asyncio.run(both())
    assert next(iter(answers)) == 2
    plain = {key: value for key, value in long.items() if key != "priority"}
    assert answers[0] == answers[1] == generate.complete(plain).text


def test_an_urgent_answer_takes_the_cache_that_it_grows_into(make: Make) -> None:
    chat = make(scheduling_policy="priority", **SMALL)
    # Each step takes its time, so that on a busy machine, too, the urgent one comes while the others run.
    layer: Any = chat.model.require_module()
    slowed = layer.model.embed_tokens.register_forward_pre_hook(lambda layer, args: time.sleep(0.003))
    ended: list[str] = []

    async def all_of_them() -> None:
        async def one(name: str, **fields: Any) -> None:
            await chat.acomplete(ask(name * 40), ignore_eos=True, **fields)
            ended.append(name)

        slow = []
        for name in "ab":  # one after the other, so that it is known which is the younger
            slow.append(asyncio.ensure_future(one(name, max_tokens=180, priority=3)))
            while engine_of(chat).stats().running < len(slow):
                await asyncio.sleep(0.001)
        await one("c", max_tokens=190, priority=-1)
        await asyncio.gather(*slow)

    asyncio.run(all_of_them())
    slowed.remove()
    # There is room for two of them, so the younger of the less urgent ones gave way.
    assert ended.index("c") < ended.index("b")
    until(lambda: idle(chat))


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
    until(lambda: not engine_of(chat).loop.manager.is_running())
    assert (
        len(chat.complete(ask("x"), max_tokens=2, ignore_eos=True, return_token_ids=True).choices[0].token_ids or [])
        == 2
    )
    until(lambda: idle(chat))


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
    until(lambda: idle(chat))


def test_an_engine_nobody_uses_is_garbage(new_model: Callable[[], Any]) -> None:
    chat = Chat(ModelInfo.of(new_model(), stand_in().tokenizer), engine="continuous")
    chat.complete(ask("x"), max_tokens=2)
    manager, gone = engine_of(chat).loop.manager, weakref.ref(chat.engine)
    until(partial(idle, chat))
    del chat
    gc.collect()
    assert gone() is None
    until(lambda: not manager.is_running())


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
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
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
