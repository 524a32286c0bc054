"""A model and its plugins: requests, defaults, batches, observers. The engine is one that types a fixed text."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from waiting import SECONDS, wait_until

import chatplan.chat as chat_module
from chatplan.chat import Chat
from chatplan.engine.base import Engine, PromptLogprobs
from chatplan.errors import EngineError, PluginError, RequestError, UnsupportedFieldError
from chatplan.hookspecs import hookimpl
from chatplan.manager import Plugins
from chatplan.model import ModelInfo
from chatplan.plan import GenerationPlan
from chatplan.request import ChatCompletionRequest, parse_request
from chatplan.response import Usage
from chatplan.row import Row
from chatplan.settings import Settings
from chatplan.standin import stand_in

HI = [{"role": "user", "content": "Hi"}]
IDS = [*stand_in().tokenizer.encode("hello", add_special_tokens=False), 257]


class Typist(Engine):
    name = "typist"
    unsupported: ClassVar[Mapping[str, str]] = {"seed": "types the same each time"}

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.closed = False
        self.before: Callable[[], object] = lambda: None

    def run(self, rows: Sequence[Row]) -> None:
        self.batches.append(len(rows))
        position = 0
        while not all(row.finished for row in rows):
            self.before()
            for row in rows:
                row.push(IDS[position % len(IDS)])
            position += 1

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        return [None]

    def close(self) -> None:
        self.closed = True


class Observer:
    """Writes down what finished."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, Usage | None, Exception | None]] = []

    @hookimpl
    def request_finished(self, request: Any, usage: Any, error: Any) -> None:
        self.seen.append((request, usage, error))


def chat(*plugins: Any, model: ModelInfo | None = None, **more: Any) -> tuple[Chat, Typist]:
    engine = Typist()
    offer = SimpleNamespace(
        name="offer", engine=hookimpl(lambda options: engine if options["engine"] == "auto" else None)
    )
    loaded = Plugins([*plugins, offer], installed=False)
    return Chat(model or stand_in(), plugins=loaded, **more), engine


# --- requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        HI,
        tuple(HI),
        {"messages": HI},
        parse_request({"messages": HI}),
        parse_request({"messages": HI}).messages,
    ],
    ids=["messages", "tuple", "dict", "request", "objects"],
)
def test_all_forms_of_a_request(given: Any) -> None:
    made = chat()[0].request(given, temperature=0)
    assert (made.messages[0].content, made.temperature) == ("Hi", 0)


def test_keywords_win_over_the_request_and_it_over_defaults() -> None:
    talk, _ = chat(defaults={"temperature": 0.1, "top_p": 0.1, "top_k": 1})
    made = talk.request({"messages": HI, "temperature": 0.2, "top_p": 0.2}, temperature=0.3)
    assert (made.temperature, made.top_p, made.top_k) == (0.3, 0.2, 1)


def test_a_request_object_is_left_as_it_is() -> None:
    given = parse_request({"messages": HI, "temperature": 0.2})
    talk, _ = chat()
    assert talk.request(given) is given
    assert talk.request(given, temperature=0.3).temperature == 0.3
    assert given.temperature == 0.2


def test_a_request_object_gets_defaults_and_the_fields_of_plugins() -> None:
    loud = SimpleNamespace(name="loud", request_fields=hookimpl(lambda: {"shout": int}))
    talk, _ = chat(loud, defaults={"top_k": 3})
    made = talk.request(ChatCompletionRequest.model_validate({"messages": HI, "shout": 2, "stop": "x"}))
    assert (made.top_k, made.get("shout"), made.stop) == (3, 2, "x")
    with pytest.raises(RequestError, match="shout"):
        talk.request(ChatCompletionRequest.model_validate({"messages": HI, "shout": "much"}))


@pytest.mark.parametrize("given", ["Hi", 5, None, [], {}, [[]]])
def test_what_is_no_request_is_refused(given: Any) -> None:
    with pytest.raises(RequestError) as caught:
        chat()[0].complete(given)
    assert (caught.value.param or "").startswith("messages")


# --- defaults ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defaults", "param"), [({"temperature": -1}, "temperature"), ({"shout": 1}, "shout"), ({"seed": 1}, "seed")]
)
def test_a_bad_default_is_refused_at_once(defaults: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(defaults=defaults)
    assert caught.value.param == param


@pytest.mark.parametrize("default", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("given", ["max_tokens", "max_completion_tokens"])
def test_a_default_length_does_not_clash_with_the_requests(default: str, given: str) -> None:
    talk, _ = chat(defaults={default: 3})
    assert talk.plan(HI).max_new_tokens == 3
    assert talk.plan(HI, **{given: 50}).max_new_tokens == 50


@pytest.mark.parametrize("ask", [Chat.request, lambda talk, given: talk.request(talk.request(given))])
def test_null_is_absent_so_the_default_holds(ask: Callable[[Chat, Any], ChatCompletionRequest]) -> None:
    talk, _ = chat(defaults={"temperature": 0.1, "max_tokens": 5})
    made = ask(talk, {"messages": HI, "temperature": None, "max_completion_tokens": None})
    assert (made.temperature, made.max_new_tokens_limit) == (0.1, 5)


# --- answers ----------------------------------------------------------------------------------------------------------


def test_an_answer() -> None:
    answer = chat()[0].complete(HI, request_id="x")
    assert (answer.text, answer.id, answer.model) == ("hello", "chatcmpl-x", "stand-in")
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (21, 6, 27)


def test_one_request_object_may_be_answered_twice() -> None:
    talk, _ = chat()
    request = talk.request(HI)
    assert talk.complete(request).id != talk.complete(request).id


def test_a_batch_is_answered_in_order_and_together() -> None:
    talk, engine = chat()
    answers = talk.complete_batch([{"messages": HI, "max_tokens": count} for count in (1, 2, 3)])
    assert [answer.text for answer in answers] == ["h", "he", "hel"]
    assert engine.batches == [3]
    assert talk.complete_batch([]) == []


def test_a_lazy_supply_is_taken_a_batch_at_a_time() -> None:
    taken: list[int] = []

    def endless() -> Iterator[Any]:
        while True:
            taken.append(1)
            yield HI

    model = ModelInfo("m", stand_in().tokenizer, settings=Settings(batch_size=2, max_model_len=100))
    talk, engine = chat(model=model)
    answers = talk.complete_each(endless())
    assert taken == []
    assert [next(answers).text for _ in range(3)] == ["hello"] * 3
    assert (len(taken), engine.batches) == (4, [2, 2])


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_error_in_a_batch_names_the_position(position: int) -> None:
    batch: list[Any] = [HI, HI, HI]
    batch[position] = {"messages": HI, "temperature": -1}
    with pytest.raises(RequestError) as caught:
        chat()[0].complete_batch(batch)
    assert caught.value.param == f"[{position}].temperature"
    assert str(caught.value).startswith(f"[{position}].temperature: ")


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_error_in_a_lazy_supply_names_the_position(position: int) -> None:
    model = ModelInfo("m", stand_in().tokenizer, settings=Settings(batch_size=2, max_model_len=100))
    batch: list[Any] = [HI, HI, HI]
    batch[position] = {"messages": []}
    with pytest.raises(RequestError) as caught:
        list(chat(model=model)[0].complete_each(iter(batch)))
    assert caught.value.param == f"[{position}].messages"


def test_an_error_of_the_only_request_names_no_position() -> None:
    with pytest.raises(RequestError) as caught:
        chat()[0].complete_batch([{"messages": HI, "n": 0}])
    assert caught.value.param == "n"


def test_whole_answers_refuse_to_stream() -> None:
    talk, _ = chat()
    with pytest.raises(RequestError, match="^stream: "):
        talk.complete(HI, stream=True)
    with pytest.raises(RequestError, match="^stream: "):
        asyncio.run(talk.acomplete(HI, stream=True))


def test_a_stream() -> None:
    talk, _ = chat()
    text = "".join(choice.delta.content or "" for chunk in talk.stream(HI) for choice in chunk.choices)
    assert text == "hello"
    with pytest.raises(RequestError):  # here, and not while reading
        talk.stream(HI, temperature=-1)


def test_fields_that_the_engine_cannot_honour_are_refused() -> None:
    with pytest.raises(UnsupportedFieldError, match="^seed: types the same each time"):
        chat()[0].complete(HI, seed=1)


def test_an_engine_that_nobody_offers() -> None:
    with pytest.raises(PluginError, match="no plugin offers the engine 'warp'"):
        chat(engine="warp")


def test_closing_closes_the_engine() -> None:
    talk, engine = chat()
    talk.close()
    assert engine.closed


# --- async ------------------------------------------------------------------------------------------------------------


def test_an_answer_in_an_event_loop() -> None:
    talk, _ = chat()

    async def both() -> list[str | None]:
        answers = await asyncio.gather(talk.acomplete(HI), talk.acomplete(HI, max_tokens=2))
        return [answer.text for answer in answers]

    assert asyncio.run(asyncio.wait_for(both(), SECONDS)) == ["hello", "he"]


def test_cancelling_stops_generating() -> None:
    observer = Observer()
    talk, engine = chat(observer)
    started = threading.Event()

    def go_slowly() -> None:
        started.set()
        time.sleep(0.002)

    engine.before = go_slowly

    async def cancel() -> None:
        task = asyncio.ensure_future(talk.acomplete(HI, ignore_eos=True, max_tokens=5000))
        assert await asyncio.to_thread(started.wait, SECONDS)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(asyncio.wait_for(cancel(), SECONDS))
    wait_until(lambda: observer.seen)
    ((_, usage, error),) = observer.seen
    assert error is None
    assert usage is not None
    assert usage.completion_tokens < 5000


def test_what_still_runs_stops_when_the_interpreter_goes_away() -> None:
    talk, engine = chat()
    engine.before = lambda: time.sleep(0.001)
    ended: list[Any] = []
    runs = [talk.start(talk.plan(HI, ignore_eos=True, max_tokens=5000), lambda chunk: None, ended.append)
            for _ in range(2)]  # fmt: skip
    assert chat_module._running >= set(runs)
    chat_module._stop_all()
    assert not chat_module._running & set(runs)
    wait_until(lambda: len(ended) == 2)
    assert all(run.cancelled and run.tokens[1] < 5000 for run in ended)


# --- observers --------------------------------------------------------------------------------------------------------


def test_observers_get_the_request_and_its_usage() -> None:
    observer = Observer()
    chat(observer)[0].complete(HI, user="u")
    ((request, usage, error),) = observer.seen
    assert (request.user, error) == ("u", None)
    assert usage == Usage(prompt_tokens=21, completion_tokens=6, total_tokens=27)


def test_observers_get_the_error() -> None:
    observer = Observer()
    talk, engine = chat(observer)

    def explode() -> None:
        raise ValueError("no")

    engine.before = explode
    with pytest.raises(EngineError, match="ValueError: no") as caught:
        talk.complete(HI)
    assert observer.seen == [(observer.seen[0][0], None, caught.value)]


def test_observers_hear_of_streams_and_of_each_request_of_a_batch() -> None:
    observer = Observer()
    talk, _ = chat(observer)
    list(talk.stream(HI))
    talk.complete_batch([HI, HI])
    assert [usage.completion_tokens for _, usage, _ in observer.seen if usage] == [6, 6, 6]


def test_what_observers_do_never_changes_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def explode(request: Any) -> None:
        raise ValueError("no")

    first, last = Observer(), Observer()
    bad = SimpleNamespace(name="bad", request_finished=hookimpl(explode))
    odd = SimpleNamespace(name="odd", request_finished=hookimpl(lambda usage: "not an answer"))
    named = [SimpleNamespace(name=n, request_finished=o.request_finished) for n, o in (("f", first), ("l", last))]
    with caplog.at_level(logging.ERROR, logger="chatplan"):
        assert chat(named[0], bad, odd, named[1])[0].complete(HI).text == "hello"
    assert len(first.seen) == len(last.seen) == 1
    assert "'bad'" in caplog.text
    assert "ValueError: no" in caplog.text
