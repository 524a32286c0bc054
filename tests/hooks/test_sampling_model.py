"""What steers the choice of tokens, as far as a reader of answers can tell. On the real model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from chatplan import ChatPipeline

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "Tell me a short story."}]
FREE: dict[str, Any] = {"max_tokens": 8, "return_token_ids": True}


def ids(answer: Any) -> list[list[int]]:
    return [choice.token_ids for choice in answer.choices]


@pytest.fixture(scope="module")
def greedy(pipe: ChatPipeline) -> list[int]:
    return ids(pipe(ASK, temperature=0, **FREE))[0]


# --- tokens pushed, allowed and forbidden -----------------------------------------------------------------------------


def test_logit_bias_forces_and_bans(pipe: ChatPipeline, greedy: list[int]) -> None:
    forced, banned, penalised = pipe(
        [
            {"messages": ASK, "temperature": 0, "logit_bias": {"1234": 100}},
            {"messages": ASK, "temperature": 0, "logit_bias": {str(token): -100 for token in greedy}},
            {"messages": ASK, "seed": 1, "logit_bias": {"1234": 100}},
        ],
        **FREE,
    )
    assert ids(forced) == ids(penalised) == [[1234] * 8]
    assert not set(ids(banned)[0]) & set(greedy)


def test_allowed_token_ids(pipe: ChatPipeline) -> None:
    allowed = pipe.chat.model.tokenizer.encode("yes no", add_special_tokens=False)
    answers = pipe([{"messages": ASK, "seed": seed} for seed in range(2)], allowed_token_ids=allowed, **FREE)
    assert all(set(ids(answer)[0]) <= set(allowed) for answer in answers)


def test_bad_words(pipe: ChatPipeline) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    plain, one, two, part = pipe(
        [
            {"messages": question},
            {"messages": question, "bad_words": ["Paris"]},
            {"messages": question, "bad_words": ["France is"]},
            {"messages": question, "bad_words": ["is"]},
        ],
        max_tokens=8,
        top_k=1,
    )
    assert plain.text == "The capital of France is Paris."
    assert "Paris" not in one.text
    assert one.text.startswith("The capital of France is")
    assert "France" in two.text
    assert "France is" not in two.text
    assert " is" not in part.text


# --- penalties --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 50.0}, {"frequency_penalty": 2.0}, {"presence_penalty": 2.0}], ids=str
)
def test_penalties_make_repeats_rarer(pipe: ChatPipeline, penalty: dict[str, Any]) -> None:
    words = pipe.chat.model.tokenizer.encode(" no yes maybe never always", add_special_tokens=False)
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 10, "allowed_token_ids": words, "return_token_ids": True}
    plain, penalised = pipe([{"messages": ASK}, {"messages": ASK, **penalty}], **fields)
    [tokens], [fewer] = ids(plain), ids(penalised)
    assert tokens[:2] == [tokens[0]] * 2
    assert fewer[0] == tokens[0] != fewer[1]


def test_repetition_penalty_reads_the_prompt(pipe: ChatPipeline) -> None:
    tokens = pipe.chat.model.tokenizer.encode("capital", add_special_tokens=False)
    prompt = [{"role": "user", "content": "capital"}]
    assert set(tokens) <= set(pipe.plan(prompt).prompt.token_ids)
    answers = pipe([{"messages": prompt, "repetition_penalty": r} for r in (1.0, 100.0)], temperature=0, **FREE)
    assert not set(ids(answers[1])[0]) & set(pipe.plan(prompt).prompt.token_ids)


# --- temperature and filters ------------------------------------------------------------------------------------------

AS_GREEDY: list[dict[str, Any]] = [
    {"temperature": 2.0, "top_k": 1},
    {"temperature": 2.0, "top_p": 1e-6},
    {"temperature": 2.0, "min_p": 1.0},
    {"temperature": 0, "top_k": 5, "top_p": 0.5, "min_p": 0.1},
    {"temperature": 0, "seed": 3},
    {"temperature": 1e-6},
]


def test_what_leaves_no_choice_equals_greedy(pipe: ChatPipeline, greedy: list[int]) -> None:
    for answer in pipe([{"messages": ASK, **wish} for wish in AS_GREEDY], **FREE):
        assert ids(answer) == [greedy]


def test_top_k_zero_and_minus_one_are_off(pipe: ChatPipeline) -> None:
    first, *others = pipe([{"messages": ASK, **wish} for wish in ({}, {"top_k": 0}, {"top_k": -1})], seed=2, **FREE)
    assert [ids(answer) for answer in others] == [ids(first)] * 2


def test_default_temperature_is_the_published_one(pipe: ChatPipeline) -> None:
    default, stated, other = pipe(
        [{"messages": ASK, **wish} for wish in ({}, {"temperature": 0.7}, {"temperature": 1.5})], seed=6, **FREE
    )
    assert ids(default) == ids(stated) != ids(other)


# --- seeds and choices ------------------------------------------------------------------------------------------------


def test_a_seed_repeats_exactly(pipe: ChatPipeline) -> None:
    """Alone, among others, as one of many choices, streamed, or after something else."""
    wish: dict[str, Any] = {"messages": ASK, "seed": 42, "temperature": 1.2, **FREE}
    [alone] = ids(pipe(wish))
    assert ids(pipe(wish)) == [alone]
    neighbours = [
        {"messages": [{"role": "user", "content": "Hello " * 7}], "max_tokens": 3},
        wish,
        {"messages": ASK, "seed": 7, "n": 2, **FREE},
    ]
    assert ids(pipe(neighbours)[1]) == [alone]
    assert ids(pipe(wish, n=3))[0] == alone
    chunks = list(pipe(wish, stream=True))
    assert [token for chunk in chunks for token in chunk.choices[0].token_ids or ()] == alone


def test_seeds_and_choices_differ(pipe: ChatPipeline) -> None:
    first, second, unset, minus = pipe(
        [{"messages": ASK, "n": 2, **seed} for seed in ({"seed": 1}, {"seed": 2}, {}, {"seed": -1})],
        temperature=1.2,
        **FREE,
    )
    all_choices = [tuple(choice) for answer in (first, second, unset, minus) for choice in ids(answer)]
    assert len(set(all_choices)) == 8
    again = pipe(ASK, n=2, seed=-1, temperature=1.2, **FREE)
    assert ids(again) != ids(minus)


def test_greedy_choices_are_equal(pipe: ChatPipeline, greedy: list[int]) -> None:
    answer = pipe(ASK, temperature=0, n=3, **FREE)
    assert ids(answer) == [greedy] * 3
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage.completion_tokens == sum(map(len, ids(answer)))


def test_best_of_returns_the_likeliest(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"seed": 8, "temperature": 1.2, **FREE}
    every = pipe(ASK, n=5, logprobs=True, **fields)
    sums = [sum(entry.logprob for entry in choice.logprobs.content) for choice in every.choices]
    order = sorted(range(5), key=lambda at: -sums[at])
    assert order[:2] != [0, 1]
    best = pipe(ASK, n=2, best_of=5, **fields)
    assert ids(best) == [ids(every)[at] for at in order[:2]]
    assert [choice.index for choice in best.choices] == [0, 1]
    reported = pipe(ASK, n=2, best_of=5, logprobs=True, **fields).choices[0].logprobs.content
    assert sum(entry.logprob for entry in reported) == pytest.approx(max(sums), abs=1e-3)


def test_the_global_generators_are_left_alone(pipe: ChatPipeline) -> None:
    before = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    pipe(ASK, temperature=1.0, n=2, top_p=0.9, max_tokens=2)
    pipe(ASK, temperature=1.0, seed=5, max_tokens=2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert repr(np.random.get_state()) == before[2]


# --- beam search ------------------------------------------------------------------------------------------------------

BEAM: dict[str, Any] = {"use_beam_search": True, "temperature": 1.0, "max_tokens": 6, "return_token_ids": True}


def generated(pipe: ChatPipeline, **arguments: Any) -> list[list[int]]:
    """The beams of transformers' own search, without what follows the end."""
    model: Any = pipe.model
    prompt = list(pipe.plan(ASK).prompt.token_ids)
    found = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=6,
        do_sample=False,
        **arguments,
    )
    beams = [beam[len(prompt) :] for beam in found.tolist()]
    return [beam[: beam.index(2) + 1] if 2 in beam else beam for beam in beams]


SEARCHES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"n": 3}, {"length_penalty": 1.0, "early_stopping": "never"}),
    ({"n": 3, "length_penalty": 0.0}, {"length_penalty": 0.0, "early_stopping": "never"}),
    ({"n": 3, "early_stopping": True}, {"length_penalty": 1.0, "early_stopping": True}),
    ({"n": 3, "early_stopping": False, "length_penalty": 2.0}, {"length_penalty": 2.0, "early_stopping": False}),
]


@pytest.mark.parametrize(("fields", "arguments"), SEARCHES, ids=lambda value: str(value))
def test_beams_are_those_of_generate(pipe: ChatPipeline, fields: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert ids(pipe(ASK, **BEAM, **fields)) == generated(pipe, num_beams=3, num_return_sequences=3, **arguments)


def test_the_best_of_more_beams(pipe: ChatPipeline) -> None:
    wide = generated(pipe, num_beams=4, num_return_sequences=2, early_stopping="never")
    assert ids(pipe(ASK, **BEAM, n=2, best_of=4)) == wide


def total(choice: Any) -> float:
    return float(sum(entry.logprob for entry in choice.logprobs.content))


def test_the_best_beam_is_at_least_as_likely_as_greedy(pipe: ChatPipeline) -> None:
    beams = pipe(ASK, **BEAM, n=3, logprobs=True, top_logprobs=1, length_penalty=0.0)
    greedy = pipe(ASK, temperature=0, max_tokens=6, logprobs=True)
    totals = [total(choice) for choice in beams.choices]
    assert totals == sorted(totals, reverse=True)
    assert totals[0] >= total(greedy.choices[0]) - 1e-4
    for choice in beams.choices:
        assert_logprobs_of_forward(pipe, choice.token_ids, choice.logprobs.content)


def assert_logprobs_of_forward(pipe: ChatPipeline, tokens: Sequence[int], content: Sequence[Any]) -> None:
    prompt = pipe.plan(ASK).prompt.token_ids
    model: Any = pipe.model
    with torch.no_grad():
        logprobs = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(dim=-1)
    wanted = [logprobs[len(prompt) - 1 + at, token].item() for at, token in enumerate(tokens)]
    assert [entry.logprob for entry in content] == pytest.approx(wanted, abs=2e-4)


def test_beams_heed_stops_and_bans(pipe: ChatPipeline) -> None:
    plain = pipe(ASK, **BEAM, n=2)
    word = pipe.chat.model.token_text(ids(plain)[0][2])
    stopped = pipe(ASK, **BEAM, n=2, stop=[word])
    assert stopped.choices[0].stop_reason == word
    assert word not in stopped.text
    banned = pipe(ASK, **BEAM, n=2, logit_bias={str(ids(plain)[0][0]): -100})
    assert all(choice[0] != ids(plain)[0][0] for choice in ids(banned))


def test_a_streamed_search_is_the_same(pipe: ChatPipeline) -> None:
    chunks = list(pipe(ASK, **BEAM, n=2, stream=True))
    texts = ["".join(c.choices[0].delta.content or "" for c in chunks if c.choices[0].index == i) for i in range(2)]
    assert texts == [choice.message.content for choice in pipe(ASK, **BEAM, n=2).choices]
