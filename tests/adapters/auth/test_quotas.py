"""Quotas, on a clock that the tests turn."""

from __future__ import annotations

import pytest
from waiting import join

from chatplan import Principal
from chatplan.adapters.auth.quotas import Quotas
from chatplan.errors import PermissionDeniedError, RateLimitError


class Clock:
    """The time of day, in seconds; it begins at a full minute."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("time.time", made)
    return made


def full(quotas: Quotas, principal: Principal, tokens: int = 0) -> RateLimitError:
    with pytest.raises(RateLimitError) as caught:
        quotas.enter(principal, tokens)
    return caught.value


def test_models_and_priority() -> None:
    quotas = Quotas()
    anybody, ann = Principal("anybody"), Principal("ann", frozenset({"a"}), max_priority=0)
    quotas.check(anybody, "any", -99)
    quotas.check(ann, "a", 0)
    quotas.check(ann, "a", 5)
    with pytest.raises(PermissionDeniedError, match="does not allow the model 'b'") as caught:
        quotas.check(ann, "b", 0)
    assert caught.value.param == "model"
    with pytest.raises(PermissionDeniedError, match="allows 0 and higher numbers, .* got -1") as caught:
        quotas.check(ann, "a", -1)
    assert caught.value.param == "priority"


def test_nobody_is_limited_without_limits() -> None:
    quotas, anybody = Quotas(), Principal("anybody")
    for _ in range(200):
        quotas.enter(anybody, 1000)
        quotas.spend(anybody, 1000)


def test_requests_at_once() -> None:
    quotas, ann, bob = Quotas(), Principal("ann", concurrency=2), Principal("bob", concurrency=1)
    quotas.enter(ann)
    quotas.enter(ann)
    quotas.enter(bob)
    error = full(quotas, ann)
    assert (error.status, error.code) == (429, "concurrency_exceeded")
    quotas.leave(ann)
    quotas.enter(ann)
    full(quotas, ann)


def test_requests_a_minute(clock: Clock) -> None:
    quotas, ann = Quotas(), Principal("ann", requests_per_minute=10)
    for _ in range(10):
        quotas.enter(ann)
        quotas.leave(ann)
    error = full(quotas, ann)
    assert (error.message, error.code) == ("at most 10 requests a minute", "requests_per_minute")
    quotas.enter(Principal("bob", requests_per_minute=10))
    clock.now += 90  # half of the first minute's still count
    for _ in range(5):
        quotas.enter(ann)
    full(quotas, ann)
    clock.now += 180
    for _ in range(10):
        quotas.enter(ann)


@pytest.mark.parametrize("start", [0, 20, 59])
@pytest.mark.parametrize("tokens", [1, 30, 100])
def test_after_the_time_it_says_there_is_room(clock: Clock, start: int, tokens: int) -> None:
    quotas, ann = Quotas(), Principal("ann", tokens_per_minute=100)
    clock.now += start
    quotas.enter(ann, 60)
    quotas.spend(ann, 90)
    wait = full(quotas, ann, tokens).retry_after
    assert 0 < wait <= 120
    clock.now += wait - 2
    assert full(quotas, ann, tokens).retry_after <= 3
    clock.now += 2.01
    quotas.enter(ann, tokens)


def test_tokens_a_minute(clock: Clock) -> None:
    quotas, ann = Quotas(), Principal("ann", tokens_per_minute=100, requests_per_minute=2)
    error = full(quotas, ann, 101)
    assert (error.message, error.code, error.retry_after) == (
        "at most 100 tokens a minute",
        "tokens_per_minute",
        60,
    )
    quotas.enter(ann, 60)  # what was refused did not count, as a request neither
    full(quotas, ann, 41)
    quotas.enter(ann, 40)
    assert full(quotas, ann).code == "requests_per_minute"


def test_an_answer_may_exceed_the_limit_and_the_next_request_waits(clock: Clock) -> None:
    quotas, ann = Quotas(), Principal("ann", tokens_per_minute=100)
    quotas.enter(ann)
    quotas.spend(ann, 5000)
    quotas.leave(ann)
    assert full(quotas, ann).retry_after > 60
    clock.now += 119
    full(quotas, ann, 50)
    clock.now += 1
    quotas.enter(ann, 100)


def test_what_is_refused_counts_nothing(clock: Clock) -> None:
    quotas = Quotas()
    ann = Principal("ann", requests_per_minute=3, tokens_per_minute=100, concurrency=1)
    quotas.enter(ann)
    for _ in range(5):
        assert full(quotas, ann).code == "concurrency_exceeded"
    quotas.leave(ann)
    for _ in range(5):
        assert full(quotas, ann, 101).code == "tokens_per_minute"
    for _ in range(2):
        quotas.enter(ann, 50)
        quotas.leave(ann)
    assert full(quotas, ann).code == "requests_per_minute"


def test_the_last_token_of_a_minute_may_be_spent(clock: Clock) -> None:
    quotas, ann, bob = Quotas(), Principal("ann", tokens_per_minute=100), Principal("bob", tokens_per_minute=100)
    quotas.enter(ann)
    quotas.spend(ann, 99)
    quotas.enter(ann)
    quotas.spend(ann, 1)
    assert full(quotas, ann).code == "tokens_per_minute"
    quotas.enter(bob)


def test_who_left_more_often_than_entered_has_no_more_room(clock: Clock) -> None:
    quotas, ann = Quotas(), Principal("ann", concurrency=1)
    quotas.enter(ann)
    quotas.leave(ann)
    quotas.leave(ann)
    quotas.enter(ann)
    full(quotas, ann)


def test_memory_is_given_back(clock: Clock) -> None:
    quotas = Quotas()
    for number in range(300):
        somebody = Principal(f"p{number}", requests_per_minute=5, tokens_per_minute=5, concurrency=1)
        quotas.enter(somebody, 1)
        quotas.leave(somebody)
    storage = quotas._storage
    assert len(storage.storage) == 600
    clock.now += 180
    quotas.enter(Principal("last", requests_per_minute=1))
    join(storage.timer)
    assert len(storage.storage) == len(storage.expirations) == 1
    assert len(storage.events) == 0
    assert len(storage.locks) <= 1
    assert list(quotas._running) == ["last"]
