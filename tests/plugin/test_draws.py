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


def numbers(seed: int | None, index: int = 0, count: int = COUNT) -> list[float]:
    draws = Draws(seed, index)
    return [draws.at(position) for position in range(count)]


@pytest.mark.parametrize("seed", [0, 1, -2, 2**63 - 1, -(2**63)])
def test_a_seed_and_an_index_always_give_the_same_numbers(seed: int) -> None:
    assert numbers(seed, 3) == numbers(seed, 3)


def test_the_numbers_do_not_change_from_version_to_version() -> None:
    assert numbers(7, 1, 3) == [0.5538787883783044, 0.588497945261394, 0.906472736187947]


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


def test_numbers_are_even_in_the_unit_interval() -> None:
    drawn = np.array(numbers(1, count=4000))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, bins=10, range=(0, 1))[0]
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
