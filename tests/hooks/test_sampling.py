"""Temperature, seeds, filters and choices, as far as a reader of answers can tell; and whose values they are."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from chatplan import Chat, ModelInfo, Row, Settings, Stage
from chatplan.draws import Draws
from chatplan.engine.sampler import Sampler
from chatplan.hooks.filters import MinP, TopK, TopP
from chatplan.hooks.penalties import Penalties
from chatplan.hooks.sampling import Temperature, gumbel
from chatplan.standin import stand_in

ASK = [{"role": "user", "content": "Tell me a short story."}]
FREE: dict[str, Any] = {"max_tokens": 8, "return_token_ids": True, "ignore_eos": True}


def ids(answer: Any) -> list[list[int]]:
    return [choice.token_ids for choice in answer.choices]


@pytest.fixture(scope="module")
def greedy(tiny: Chat) -> list[int]:
    return ids(tiny.complete(ASK, temperature=0, **FREE))[0]


# --- the request's values, the model's, the published ones ------------------------------------------------------------

OWN: dict[str, Any] = {"temperature": 0.4, "top_p": 0.8, "top_k": 12, "min_p": 0.05, "repetition_penalty": 1.3}
PLANNED: dict[str, tuple[type, str]] = {
    "temperature": (Temperature, "temperature"),
    "top_p": (TopP, "top_p"),
    "top_k": (TopK, "top_k"),
    "min_p": (MinP, "min_p"),
    "repetition_penalty": (Penalties, "repetition"),
}


def planned(plan: Any) -> dict[str, Any]:
    """What the sampler of a plan does, by the names of the fields."""
    found = {}
    for _, item in plan.processors:
        for name, (kind, attribute) in PLANNED.items():
            if isinstance(item, kind):
                found[name] = getattr(item, attribute)
    return found


@pytest.fixture(scope="module")
def stating(tiny_model: Any) -> Chat:
    """The tiny model, whose generation config states values of its own."""
    about = ModelInfo.of(tiny_model, stand_in().tokenizer, Settings(), name="tests/stating")
    return Chat(
        ModelInfo(about.name, about.tokenizer, about.config, GenerationConfig(do_sample=True, **OWN), about.module)
    )


def test_the_models_own_values_hold_where_the_request_has_none(stating: Chat, tiny: Chat) -> None:
    assert planned(stating.plan(ASK)) == OWN
    assert planned(tiny.plan(ASK)) == {"temperature": 0.7}


@pytest.mark.parametrize(
    ("name", "value"),
    [("temperature", 1.5), ("top_p", 0.5), ("top_k", 3), ("min_p", 0.2), ("repetition_penalty", 2.0)],
)
def test_the_requests_value_wins_over_the_models(stating: Chat, name: str, value: float) -> None:
    assert planned(stating.plan(ASK, **{name: value})) == {**OWN, name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [("top_p", 1.0), ("top_k", -1), ("top_k", 0), ("min_p", 0.0), ("repetition_penalty", 1.0)],
)
def test_a_request_may_switch_off_what_the_model_states(stating: Chat, name: str, value: float) -> None:
    left = {key: own for key, own in OWN.items() if key != name}
    assert planned(stating.plan(ASK, **{name: value})) == left


def test_null_leaves_the_models_value(stating: Chat) -> None:
    assert planned(stating.plan(ASK, **dict.fromkeys(OWN))) == OWN


def test_a_greedy_request_has_penalties_but_neither_temperature_nor_filters(stating: Chat) -> None:
    plan = stating.plan(ASK, temperature=0)
    assert planned(plan) == {"repetition_penalty": 1.3}
    assert Stage.DRAW not in [stage for stage, _ in plan.processors]


@pytest.mark.parametrize(
    ("temperature", "kept"), [(9e-6, None), (1e-5, 0.01), (0.005, 0.01), (0.01, 0.01), (0.02, 0.02)]
)
def test_temperatures_that_cannot_be_divided_by(tiny: Chat, temperature: float, kept: float | None) -> None:
    assert planned(tiny.plan(ASK, temperature=temperature)).get("temperature") == kept


@pytest.mark.parametrize(("top_k", "kept"), [(1, 1), (2**31 - 1, 2**31 - 1), (2**31, 2**31 - 1), (10**30, 2**31 - 1)])
def test_no_vocabulary_has_more_tokens_than_a_tensor_counts(tiny: Chat, top_k: int, kept: int) -> None:
    assert planned(tiny.plan(ASK, top_k=top_k))["top_k"] == kept


@pytest.mark.parametrize(
    ("fields", "wish"),
    [
        ({"frequency_penalty": 0.5}, Penalties(1.0, 0.5, 0.0)),
        ({"presence_penalty": -0.5}, Penalties(1.0, 0.0, -0.5)),
        ({"repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.3}, Penalties(1.1, 0.2, 0.3)),
    ],
)
def test_each_penalty_is_its_own(tiny: Chat, fields: dict[str, Any], wish: Penalties) -> None:
    assert wish in [item for _, item in tiny.plan(ASK, **fields).processors]


# --- filters ----------------------------------------------------------------------------------------------------------


def test_min_p_keeps_what_equals_the_bound() -> None:
    scores = torch.tensor([[0.0, math.log(0.5), math.log(0.49), -9.0]])
    kept = MinP.for_rows([MinP(0.5)], [], torch.device("cpu"))(scores)
    assert kept.isfinite().tolist() == [[True, True, False, False]]


def test_top_p_ends_with_the_token_that_reaches_it() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    for top_p, kept in ((0.5, 1), (0.51, 2), (0.75, 2), (0.76, 4)):  # two as likely as the last both stay
        found = TopP.for_rows([TopP(top_p)], [], torch.device("cpu"))(logits.clone())
        assert int(found.isfinite().sum()) == kept


@pytest.mark.parametrize(
    "wish",
    [
        {"temperature": 2.0, "top_k": 1},
        {"temperature": 2.0, "top_p": 1e-6},
        {"temperature": 2.0, "min_p": 1.0},
        {"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1},
        {"temperature": 0, "seed": 3},
        {"temperature": 1e-6},
    ],
)
def test_what_leaves_no_choice_equals_greedy(tiny: Chat, greedy: list[int], wish: dict[str, Any]) -> None:
    assert ids(tiny.complete(ASK, **wish, **FREE)) == [greedy]


def test_default_temperature_is_the_published_one(tiny: Chat) -> None:
    default, stated, other = (ids(tiny.complete(ASK, seed=6, **wish, **FREE)) for wish in (
        {}, {"temperature": 0.7}, {"temperature": 1.5}
    ))  # fmt: skip
    assert default == stated != other


# --- seeds ------------------------------------------------------------------------------------------------------------


NOISE = [
    [-2.81154, 1.16587, 0.12412, -0.55618, -0.65757],
    [-0.13712, 0.02972, -0.49984, 1.60676, -0.90326],
    [-0.51602, 0.53294, 0.94933, 0.06658, -0.08344],
    [3.50556, 1.38265, -0.66580, 0.59091, 1.71170],
    [-0.51974, 2.07117, -0.83507, 0.50982, -0.09790],
]


def test_a_seed_gives_the_same_noise_from_version_to_version() -> None:
    """Else all seeded answers change."""
    keys = [(0, 0), (0, 1), (1, 0), (-(2**31), 2**31 - 1), Draws(7, 1).at(0)]
    noise = gumbel(torch.tensor(keys, dtype=torch.int32), 5)
    assert noise.tolist() == [pytest.approx(row, abs=2e-5) for row in NOISE]


def test_each_bit_of_a_key_changes_the_noise() -> None:
    """Of the first word and of the second; else seeds would share answers."""
    keys = torch.tensor([[5, 9]] + [[5 ^ 1 << bit, 9] for bit in range(31)] + [[5, 9 ^ 1 << bit] for bit in range(31)])
    noise = gumbel(keys.to(torch.int32), 64)
    for at in range(len(noise)):
        for other in range(at):
            assert (noise[at] != noise[other]).float().mean() > 0.9


def test_a_seed_repeats_exactly(tiny: Chat) -> None:
    """Alone, among others, as one of many choices, streamed, or after something else."""
    wish: dict[str, Any] = {"messages": ASK, "seed": 42, "temperature": 1.2, **FREE}
    [alone] = ids(tiny.complete(wish))
    assert ids(tiny.complete(wish)) == [alone]
    neighbours = [
        {"messages": [{"role": "user", "content": "Hello " * 7}], "max_tokens": 3},
        wish,
        {"messages": ASK, "seed": 7, "n": 2, **FREE},
    ]
    assert ids(tiny.complete_batch(neighbours)[1]) == [alone]
    assert ids(tiny.complete(wish, n=3))[0] == alone
    chunks = list(tiny.stream(wish))
    assert [token for chunk in chunks for token in chunk.choices[0].token_ids or ()] == alone


def test_seeds_and_choices_differ(tiny: Chat) -> None:
    seeds: list[dict[str, Any]] = [{"seed": 1}, {"seed": 2}, {"seed": 1 + 2**32}, {"seed": -2}, {}, {"seed": -1}]
    answers = tiny.complete_batch([{"messages": ASK, "n": 2, **seed} for seed in seeds], temperature=1.2, **FREE)
    assert len({tuple(choice) for answer in answers for choice in ids(answer)}) == 2 * len(seeds)
    again = tiny.complete(ASK, n=2, seed=-1, temperature=1.2, **FREE)
    assert ids(again) != ids(answers[-1])


def test_a_negative_one_is_no_seed(tiny: Chat) -> None:
    assert tiny.plan(ASK, seed=-1).generation_config["seed"] is None
    assert tiny.plan(ASK, seed=0).generation_config["seed"] == 0
    assert tiny.plan(ASK, seed=-2).generation_config["seed"] == -2


def test_the_global_generators_are_left_alone(tiny: Chat) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    tiny.complete(ASK, temperature=1.0, n=2, top_p=0.9, max_tokens=2)
    tiny.complete(ASK, temperature=1.0, seed=5, max_tokens=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]


# --- choices ----------------------------------------------------------------------------------------------------------


def test_greedy_choices_are_equal(tiny: Chat, greedy: list[int]) -> None:
    answer = tiny.complete(ASK, temperature=0, n=3, **FREE)
    assert ids(answer) == [greedy] * 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(map(len, ids(answer)))


def sums(answer: Any) -> list[float]:
    return [sum(entry.logprob for entry in choice.logprobs.content) for choice in answer.choices]


def test_best_of_returns_the_likeliest(tiny: Chat) -> None:
    """By the total of raw log-probabilities, whatever was done to the logits before the draw."""
    fields: dict[str, Any] = {"seed": 8, "temperature": 1.2, **FREE, "logit_bias": {"9": 4}, "repetition_penalty": 1.2}
    every = tiny.complete(ASK, n=5, logprobs=True, **fields)
    totals = sums(every)
    order = sorted(range(5), key=lambda at: -totals[at])
    assert order[:2] != [0, 1]
    best = tiny.complete(ASK, n=2, best_of=5, **fields)
    assert ids(best) == [ids(every)[at] for at in order[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    reported = tiny.complete(ASK, n=2, best_of=5, logprobs=True, **fields)
    assert sums(reported) == pytest.approx([totals[at] for at in order[:2]], abs=1e-3)


def test_the_total_of_a_short_answer_ends_with_it(tiny: Chat) -> None:
    """Rows that are over wait for the others, and what is drawn in the meantime is none of their answer."""
    fields: dict[str, Any] = {"seed": 2, "temperature": 1.5, "max_tokens": 12, "return_token_ids": True}
    fields |= {"stop_token_ids": [*range(60, 90)]}
    every = tiny.complete(ASK, n=6, logprobs=True, **fields)
    assert len({len(choice) for choice in ids(every)}) > 1
    totals = sums(every)
    best = tiny.complete(ASK, n=3, best_of=6, **fields)
    assert ids(best) == [ids(every)[at] for at in sorted(range(6), key=lambda at: -totals[at])[:3]]


def test_what_is_drawn_for_a_row_that_is_over_does_not_count(tiny: Chat) -> None:
    plan = tiny.plan(ASK, n=1, best_of=2, temperature=1.0)
    rows = [Row(plan, tiny.model, at, draws=Draws(at)) for at in range(2)]
    sampler = Sampler(rows, torch.device("cpu"))
    sampler(torch.zeros(2, 300))
    rows[1].finish("stop")
    sampler.advance(torch.tensor([5, 5]))
    assert [row.cumulative_logprob for row in rows] == [pytest.approx(-math.log(300)), 0.0]


def test_best_of_n_draws_nothing_more(tiny: Chat) -> None:
    fields: dict[str, Any] = {"seed": 8, "temperature": 1.2, **FREE}
    assert ids(tiny.complete(ASK, n=2, best_of=2, **fields)) == ids(tiny.complete(ASK, n=2, **fields))
    assert tiny.plan(ASK, n=2, best_of=2).samples == 2
    assert tiny.plan(ASK, n=2, best_of=5).samples == 5


def test_repetition_penalty_reads_the_prompt(tiny: Chat) -> None:
    prompt = {*tiny.plan(ASK).prompt.token_ids}
    bias = {str(token): 30.0 for token in [*prompt, 200]}
    fields: dict[str, Any] = {"temperature": 0, "logit_bias": bias, **FREE}
    assert prompt & {*ids(tiny.complete(ASK, **fields))[0]}
    assert ids(tiny.complete(ASK, **fields, repetition_penalty=1000.0))[0][0] == 200


def test_what_neither_model_nor_request_states_is_no_processor(new_chat: Callable[..., Chat]) -> None:
    stages = [stage for stage, _ in new_chat().plan(ASK, temperature=1.0).processors]
    assert stages == [Stage.TEMPERATURE, Stage.DRAW]
