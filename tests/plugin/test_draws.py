"""Each row's own random numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatplan.draws import Draws

COUNT = 200  # more than one block


def numbers(seed: int | None, index: int = 0, count: int = COUNT) -> list[tuple[int, int]]:
    draws = Draws(seed, index)
    return [draws.at(position) for position in range(count)]


@pytest.mark.parametrize("seed", [0, 1, -2, 2**63 - 1, -(2**63)])
def test_a_seed_and_an_index_always_give_the_same_numbers(seed: int) -> None:
    assert numbers(seed, 3) == numbers(seed, 3)


def test_the_numbers_do_not_change_from_version_to_version() -> None:
    assert numbers(7, 1, 3) == [(-2006082889, 231407634), (690998520, 380095780), (613615080, 1745787108)]


# Pairs of the same words in another order or width, which a careless key would take for each other.
STREAMS = list(itertools.product([0, 1, 2, -2, 2**32, 2**32 + 1, 2**33, -(2**32), 2**63 - 1, -(2**63)], range(4)))


def test_streams_of_different_seeds_and_indices_differ() -> None:
    starts = [tuple(numbers(seed, index, 4)) for seed, index in STREAMS]
    assert len(set(starts)) == len(STREAMS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_numbers_are_addressed_by_position_in_any_order(positions: list[int]) -> None:
    whole, draws = numbers(5, 0, 301), Draws(5)
    assert [draws.at(position) for position in positions] == [whole[position] for position in positions]


def test_keys_are_even_over_all_int32() -> None:
    for words in np.array(numbers(1, count=4000)).T:
        assert words.min() >= -(2**31)
        assert words.max() < 2**31
        counts = np.histogram(words, bins=10, range=(-(2**31), 2**31))[0]
        assert ((counts > 320) & (counts < 480)).all()


def test_without_a_seed_every_stream_is_new() -> None:
    assert numbers(None) != numbers(None)


def state() -> Any:
    return [np.asarray(part).tolist() for part in np.random.get_state()]


def test_the_global_generator_is_left_alone() -> None:
    before = state()
    numbers(1)
    numbers(None)
    assert state() == before
