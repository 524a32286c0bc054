"""The draw: what comes out is distributed as the probabilities say, and hangs on nothing but the row's own numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chatplan import Chat, Row, Stage
from chatplan.draws import Draws
from chatplan.engine.sampler import Sampler
from chatplan.hooks.sampling import gumbel

CPU = torch.device("cpu")
MESSAGES = [{"role": "user", "content": "Heads or tails?"}]
VOCABULARY = 300
WORD = st.integers(-(2**31), 2**31 - 1)


class Fixed:
    """The same key, always."""

    def __init__(self, first: int, second: int) -> None:
        self.key = first, second

    def at(self, position: int) -> tuple[int, int]:
        return self.key


def rows_of(chat: Chat, draws: Sequence[Any], fields: Mapping[str, Any] | None = None) -> list[Row]:
    plan = chat.plan(MESSAGES, max_tokens=500, **{"temperature": 1.0, **(fields or {})})
    return [Row(plan, chat.model, draws=own) for own in draws]


def drawn(rows: Sequence[Row], logits: Any) -> list[int]:
    """The token of each row: the only one with a finite score."""
    scores = Sampler(rows, CPU)(torch.tensor(np.array(logits), dtype=torch.float32))
    assert torch.isfinite(scores).sum(dim=-1).tolist() == [1] * len(rows)
    return [int(token) for token in scores.argmax(dim=-1)]


def probabilities(chat: Chat, logits: Any, fields: Mapping[str, Any] | None = None) -> Any:
    rows = rows_of(chat, [None], fields)
    scores = Sampler(rows, CPU, skip=frozenset({Stage.DRAW}))(torch.tensor(logits[None], dtype=torch.float32))
    return scores.softmax(dim=-1)[0].double().numpy()


def assert_distributed(tokens: Sequence[int], expected: Any) -> None:
    """A chi-square test, ten times as lax as the usual one: five standard deviations."""
    counts = np.bincount(tokens, minlength=len(expected))
    assert counts[expected == 0].sum() == 0
    often = expected * len(tokens) >= 5
    rest = expected[~often].sum() * len(tokens)
    chi = ((counts[often] - expected[often] * len(tokens)) ** 2 / (expected[often] * len(tokens))).sum()
    chi += (counts[~often].sum() - rest) ** 2 / max(rest, 1)
    freedom = int(often.sum())
    assert chi < freedom + 5 * np.sqrt(2 * freedom) + 5


FIELDS: list[dict[str, Any]] = [
    {},
    {"temperature": 2.5},
    {"top_p": 0.7},
    {"top_k": 4},
    {"min_p": 0.1},
    {"allowed_token_ids": [3, 250, 299]},
    {"temperature": 1.5, "min_p": 0.02, "top_k": 30, "top_p": 0.9},
]
LOGITS = np.random.default_rng(5).normal(0.0, 2.0, VOCABULARY)


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_seeds_are_distributed_as_the_probabilities(tiny: Chat, fields: dict[str, Any]) -> None:
    rows = rows_of(tiny, [Draws(seed) for seed in range(4000)], fields)
    assert_distributed(drawn(rows, np.tile(LOGITS, (len(rows), 1))), probabilities(tiny, LOGITS, fields))


def test_positions_are_distributed_as_the_probabilities(tiny: Chat) -> None:
    [row] = rows_of(tiny, [Draws(3)])
    tokens = []
    for _ in range(2000):
        tokens += drawn([row], LOGITS[None])
        row.output_ids.append(0)
    assert_distributed(tokens, probabilities(tiny, LOGITS))


def test_choices_of_one_seed_are_distributed_and_independent(tiny: Chat) -> None:
    rows = rows_of(tiny, [Draws(seed, index) for seed in range(1500) for index in (0, 1)], {"top_k": 2})
    first, second = np.array(drawn(rows, np.tile(LOGITS, (len(rows), 1)))).reshape(-1, 2).T
    top = int(LOGITS.argmax())
    expected = probabilities(tiny, LOGITS, {"top_k": 2})
    assert_distributed(first.tolist(), expected)
    assert_distributed(second.tolist(), expected)
    assert abs(np.corrcoef(first == top, second == top)[0, 1]) < 0.1


@pytest.mark.parametrize("key", [(0, 0), (-(2**31), 2**31 - 1), (2**31 - 1, -1), (-1, -(2**31))], ids=str)
@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_extreme_keys_draw_no_forbidden_token(tiny: Chat, fields: dict[str, Any], key: tuple[int, int]) -> None:
    logits = LOGITS.copy()
    logits[[0, 1, 2, 297, 298, 299]] = -np.inf  # forbidden at both ends of the vocabulary
    logits[3] = 0.0
    [token] = drawn(rows_of(tiny, [Fixed(*key)], fields), logits[None])
    assert probabilities(tiny, logits, fields)[token] > 0


@settings(max_examples=40, deadline=None)
@given(key=st.tuples(WORD, WORD), seed=st.integers(0, 99), allowed=st.sets(st.integers(0, 299)))
def test_a_forbidden_token_is_never_drawn(tiny: Chat, key: tuple[int, int], seed: int, allowed: set[int]) -> None:
    fields = {"allowed_token_ids": sorted(allowed | {seed})}
    logits = np.random.default_rng(seed).normal(0.0, 9.0, (1, VOCABULARY))
    assert drawn(rows_of(tiny, [Fixed(*key)], fields), logits)[0] in fields["allowed_token_ids"]


def test_noise_is_gumbel_and_finite() -> None:
    """Mean 0.5772 (Euler's constant), variance pi²/6, and no two tokens or keys alike."""
    keys = torch.tensor([Draws(seed).at(0) for seed in range(40)], dtype=torch.int32)
    noise = gumbel(keys, 49_152).double()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.005)
    assert noise.var().item() == pytest.approx(np.pi**2 / 6, abs=0.01)
    assert torch.corrcoef(noise).fill_diagonal_(0).abs().max() < 0.03
    assert torch.corrcoef(torch.stack([noise[:, :-1].flatten(), noise[:, 1:].flatten()]))[0, 1].abs() < 0.005


def test_the_same_key_draws_the_same_token_in_any_company(tiny: Chat) -> None:
    """Row order, batch size and what the neighbours wish for do not matter."""
    wishes: list[dict[str, Any]] = [*FIELDS, {"temperature": 0}, {"frequency_penalty": 1.0, "seed": 4}]
    rows = [rows_of(tiny, [Draws(at)], wish)[0] for at, wish in enumerate(wishes)]
    logits = np.random.default_rng(8).normal(0.0, 2.0, (len(rows), VOCABULARY))

    def tokens(order: Sequence[int]) -> list[int]:
        scores = Sampler([rows[at] for at in order], CPU)(torch.tensor(logits[list(order)], dtype=torch.float32))
        return [int(token) for token in scores.argmax(dim=-1)]

    alone = [tokens([at])[0] for at in range(len(rows))]
    for order in ([*range(len(rows))], [*reversed(range(len(rows)))], [3, 0, 7], [8, 2]):
        assert tokens(order) == [alone[at] for at in order]


def test_rounding_of_logits_does_not_change_a_draw(tiny: Chat) -> None:
    """A batch rounds logits otherwise than a row alone does, by some 1e-5; a seed must give the same tokens in both."""
    random = np.random.default_rng(2)
    logits = random.normal(0.0, 2.0, 49_152)
    rows = rows_of(tiny, [Draws(seed) for seed in range(100)])
    changed = 0
    for _ in range(5):
        rounded = logits + random.normal(0.0, 1e-5, logits.shape)
        pair = [drawn(rows, np.tile(values, (len(rows), 1))) for values in (logits, rounded)]
        changed += sum(one != other for one, other in zip(*pair, strict=True))
        for row in rows:
            row.output_ids.append(0)
    assert changed <= 1


def test_finished_rows_are_left_out(tiny: Chat) -> None:
    rows = rows_of(tiny, [Fixed(3, 4), Fixed(3, 4), Fixed(3, 4)], {"allowed_token_ids": [7]})
    rows[1].cancel()
    scores = Sampler(rows, CPU)(torch.zeros(3, VOCABULARY))
    assert scores[[0, 2]].argmax(dim=-1).tolist() == [7, 7]
    assert torch.equal(scores[1], torch.zeros(VOCABULARY))


def test_positions_can_be_drawn_again() -> None:
    draws = Draws(11)
    numbers = [draws.at(position) for position in range(200)]
    assert [Draws(11).at(position) for position in (150, 3, 150)] == [numbers[150], numbers[3], numbers[150]]
    assert len(set(numbers)) == 200


def test_streams_differ_by_seed_and_index() -> None:
    keys = [(0, 0), (0, 1), (1, 0), (1, 1), (-2, 0), (-2, 1), (2**63 - 1, 0), (-(2**63), 0)]
    assert len({Draws(seed, index).at(0) for seed, index in keys}) == len(keys)


def test_without_a_seed_every_stream_is_new() -> None:
    assert Draws(None).at(0) != Draws(None).at(0)
