"""One model on two ranks, both in this process: the second one repeats what the first one does with its model."""

from __future__ import annotations

import gc
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from waiting import SECONDS, join, wait_until

from chatplan import Chat
from chatplan.engine import relay
from chatplan.engine.relay import Change, Close, Forward, Leader, Meet, follow, moved
from chatplan.engine.tensor_parallel import LEADERS, TensorParallelEngine
from chatplan.errors import EngineError

pytestmark = pytest.mark.dev_only
NewModel = Callable[[], Any]
COMMON: dict[str, Any] = {"max_tokens": 6, "ignore_eos": True, "return_token_ids": True}


def ask(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


class Pipe:
    """A channel between two threads; messages are pickled, as between processes."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.seconds: list[float] = []
        self.broken = False
        self._messages: queue.Queue[bytes] = queue.Queue()
        self._meeting = threading.Barrier(2)

    def send(self, message: object, seconds: float) -> None:
        if self.broken:
            raise RuntimeError("connection closed")
        pickled = pickle.dumps(message)
        self.sent.append(pickle.loads(pickled))  # a copy, which keeps no cache alive
        self.seconds.append(seconds)
        self._messages.put(pickled)

    def receive(self, seconds: float | None = None) -> Any:
        try:
            return pickle.loads(self._messages.get(timeout=SECONDS if seconds is None else seconds))
        except queue.Empty:
            raise RuntimeError("nothing came") from None

    def meet(self, seconds: float) -> None:
        try:
            self._meeting.wait(seconds)
        except threading.BrokenBarrierError:
            raise RuntimeError("not all are here") from None

    def messages(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


class Ranks:
    """Two models of the same weights, and what each of them was called with."""

    def __init__(self, first: Any, second: Any) -> None:
        self.first, self.second = first, second
        self.pipe = Pipe()
        channel: Any = self.pipe
        self.leader = Leader(first, channel, 7.0)
        self.released: list[bool] = []
        LEADERS[first] = self.leader, self._close
        self.calls: tuple[list[Any], list[Any]] = ([], [])
        for model, calls in zip((first, second), self.calls, strict=True):
            model.register_forward_pre_hook(self._note(calls), with_kwargs=True)
        self.errors: list[RuntimeError] = []
        self.thread = threading.Thread(target=self._follow, name="second rank", daemon=True)
        self.thread.start()

    def _close(self) -> None:
        self.leader.close()
        self.released.append(True)

    def _note(self, calls: list[Any]) -> Any:
        def note(model: Any, args: Any, kwargs: dict[str, Any]) -> None:
            cache = kwargs.get("past_key_values")
            calls.append((kwargs["input_ids"].tolist(), None if cache is None else cache.get_seq_length()))

        return note

    def _follow(self) -> None:
        try:
            channel: Any = self.pipe
            follow(self.second, channel)
        except RuntimeError as error:
            self.errors.append(error)

    def caught_up(self) -> bool:
        return len(self.calls[1]) >= len(self.calls[0])


@pytest.fixture
def ranks(new_model: NewModel) -> Iterator[Ranks]:
    made = Ranks(new_model(), new_model())
    yield made
    made.leader.close()
    if made.thread.is_alive() and not made.leader.closed:
        made.pipe.broken = False
        made.pipe.send(Close(), 1)
    join(made.thread)


def answers_of(chat: Chat) -> list[Any]:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"seed": 3, "n": 2},
        {"use_beam_search": True, "n": 2, "logprobs": True},
        {"temperature": 0, "prompt_logprobs": 1},
    ]
    answers = chat.complete_batch([{"messages": ask("x" * at), **COMMON, **kind} for at, kind in enumerate(kinds)])
    return [[choice.token_ids for choice in answer.choices] for answer in answers]


# --- what is repeated -------------------------------------------------------------------------------------------------


def test_both_ranks_make_the_same_passes(ranks: Ranks, tiny: Chat, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    assert isinstance(chat.engine, TensorParallelEngine)
    assert chat.engine.name == "tensor_parallel"
    assert answers_of(chat) == answers_of(tiny)
    wait_until(ranks.caught_up)
    assert ranks.calls[0] == ranks.calls[1]
    assert set(ranks.pipe.seconds) == {7.0}
    # A search changes the order of its rows in the cache between two passes.
    assert {change.method for change in ranks.pipe.messages(Change)} == {"reorder_cache"}
    assert [message.number for message in ranks.pipe.messages(Forward)] == list(range(len(ranks.calls[0])))


def test_caches_that_nobody_holds_are_dropped_on_the_other_rank_too(ranks: Ranks, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    for _ in range(3):
        chat.complete(ask("x"), **COMMON)
    gc.collect()
    chat.complete(ask("x"), **COMMON)
    passes = ranks.pipe.messages(Forward)
    fresh = [message.number for message in passes if message.fresh is not None]
    dropped = [number for message in passes for number in message.dropped]
    assert len(fresh) == 4
    assert sorted(dropped) == fresh[:-1]
    assert {message.cache for message in passes if message.fresh is None} == set(fresh)


def test_a_cache_that_a_pass_makes_is_known_by_its_number(ranks: Ranks) -> None:
    with torch.no_grad():
        made = ranks.first(input_ids=torch.tensor([[65, 66, 67]]), use_cache=True).past_key_values
        ranks.first(input_ids=torch.tensor([[68]]), past_key_values=made)
        made.crop(-2)
        last = ranks.first(input_ids=torch.tensor([[69]]), past_key_values=made).logits
        wanted = ranks.first(input_ids=torch.tensor([[65, 66, 69]])).logits[:, -1:]
    wait_until(ranks.caught_up)
    assert ranks.calls[0] == ranks.calls[1]
    assert [past for _, past in ranks.calls[1]] == [None, 3, 2, None]
    assert torch.allclose(last, wanted, atol=1e-4)


def test_what_the_other_rank_could_not_repeat_is_refused(ranks: Ranks, tiny_model: Any) -> None:
    ids = torch.tensor([[65, 66]])
    with torch.no_grad():
        elsewhere = tiny_model(input_ids=ids, past_key_values=DynamicCache()).past_key_values
    with pytest.raises(EngineError, match="by name"):
        ranks.first(ids)
    with pytest.raises(EngineError, match="filled elsewhere"):
        ranks.first(input_ids=ids, past_key_values=elsewhere)
    assert ranks.pipe.sent == []
    with torch.no_grad():
        ranks.first(input_ids=ids)  # nobody holds the model
    wait_until(ranks.caught_up)


def test_tensors_move_wherever_they_are() -> None:
    there = torch.device("meta")
    given: dict[str, Any] = {"a": torch.ones(2), "b": [torch.ones(1), (torch.ones(3), "text", None)]}
    found = moved(given, there)
    assert found["a"].device == found["b"][0].device == found["b"][1][0].device == there
    assert isinstance(found["b"], list)
    assert found["b"][1][1:] == ("text", None)
    assert given["a"].device.type == "cpu"


# --- failures ---------------------------------------------------------------------------------------------------------


def broken_step(ranks: Ranks) -> Any:
    return ranks.first(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 1, 7, 9))


def test_what_all_ranks_fail_at_is_over_when_they_agree(ranks: Ranks, tiny: Chat, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    with pytest.raises(RuntimeError) as caught, chat.engine._in_step():
        broken_step(ranks)
    assert not isinstance(caught.value, EngineError)
    assert len(ranks.pipe.messages(Meet)) == 1
    assert ranks.leader.broken is None
    assert chat.engine.stats().running == 0
    assert answers_of(chat) == answers_of(tiny)
    assert ranks.errors == []


def test_what_fails_between_two_passes_needs_no_meeting(ranks: Ranks, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    chat.complete(ask("x"), **COMMON)
    with pytest.raises(ValueError, match="elsewhere"), chat.engine._in_step():
        raise ValueError("elsewhere")
    assert ranks.pipe.messages(Meet) == []


def test_a_rank_that_fails_alone_leaves(ranks: Ranks, new_chat: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "GRACE", 0.1)
    chat = new_chat(model=ranks.first)

    def alone(*args: Any) -> None:
        raise MemoryError("no room")

    ranks.second.register_forward_pre_hook(alone)
    with torch.no_grad():
        ranks.first(input_ids=torch.tensor([[65, 66]]))
    join(ranks.thread)
    assert [str(error) for error in ranks.errors] == ["nothing came"]
    # Rank 0 hears of it when it sends, or when it fails itself and nobody meets it.
    with pytest.raises(EngineError, match="another rank has gone or does not answer"), chat.engine._in_step():
        broken_step(ranks)
    assert ranks.leader.broken == "another rank has gone or does not answer"


def test_a_rank_that_has_gone_is_told_at_once_and_ever_after(ranks: Ranks, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    chat.complete(ask("x"), **COMMON)
    ranks.pipe.broken = True
    for _ in range(2):
        with pytest.raises(EngineError, match="the model is on several ranks, and another rank has gone"):
            chat.complete(ask("x"), **COMMON)
        ranks.pipe.broken = False  # the second time nobody even tries
    with pytest.raises(RuntimeError, match="another rank has gone"):
        chat.engine.stats()
    count = len(ranks.pipe.sent)
    ranks.leader.close()
    assert not ranks.leader.closed
    assert len(ranks.pipe.sent) == count


def test_the_first_reason_stands(ranks: Ranks) -> None:
    ranks.leader.break_off("rank 1 has ended")
    ranks.leader.break_off("something else")
    assert ranks.leader.broken == "rank 1 has ended"
    with pytest.raises(EngineError, match="rank 1 has ended"):
        ranks.first(input_ids=torch.tensor([[1]]))


def test_closing_lets_the_other_rank_go(ranks: Ranks, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    chat.close()
    join(ranks.thread)
    assert ranks.released == [True]
    assert ranks.leader.closed
    assert ranks.errors == []
    with pytest.raises(EngineError, match="it is closed"):
        chat.complete(ask("x"), **COMMON)
    ranks.leader.close()
    assert len(ranks.pipe.messages(Close)) == 1


def test_prompt_log_probabilities_of_a_model_that_is_gone_say_so(ranks: Ranks, new_chat: Any) -> None:
    chat = new_chat(model=ranks.first)
    plan = chat.plan(ask("x"), prompt_logprobs=1)
    assert len(chat.engine.prompt_logprobs(plan)) == len(plan.prompt.token_ids)
    ranks.leader.break_off("rank 1 has ended")
    with pytest.raises(EngineError, match="rank 1 has ended"):
        chat.engine.prompt_logprobs(plan)
