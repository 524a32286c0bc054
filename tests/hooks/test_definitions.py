"""What the sampler does to logits, against the definitions of the fields, written down once more in NumPy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from chatplan import Chat, Row, Stage
from chatplan.draws import Draws
from chatplan.engine.sampler import Sampler

VOCABULARY = 300
EOS = 257
CPU = torch.device("cpu")
MESSAGES = [{"role": "user", "content": "To be, or not to be"}]
OFF: Mapping[str, Any] = {"temperature": 1.0}


# --- the definitions --------------------------------------------------------------------------------------------------


def defined(logits: Any, prompt: Sequence[int], output: Sequence[int], fields: Mapping[str, Any]) -> Any:
    """Log-probabilities of the next token; -inf for those that cannot be drawn."""
    scores = np.array(logits, dtype=np.float64)
    if "allowed_token_ids" in fields:
        scores[[i for i in range(len(scores)) if i not in fields["allowed_token_ids"]]] = -np.inf
    for word in fields.get("bad_words", ()):
        *before, last = word.encode()  # the byte tokenizer has one token for each byte
        before, last = [token_of(byte) for byte in before], token_of(last)
        if list(output[len(output) - len(before) :]) == before:
            scores[last] = -np.inf
    if len(output) < fields.get("min_tokens", 0):
        ends = [] if fields.get("ignore_eos") else [EOS]
        scores[[*ends, *fields.get("stop_token_ids", ())]] = -np.inf
    for token, bias in fields.get("logit_bias", {}).items():
        scores[int(token)] += min(max(bias, -100), 100)
    scores = penalised(scores, prompt, output, fields)
    return log_softmax(nucleus(scores / max(fields.get("temperature", 0.7), 0.01), fields))


def penalised(scores: Any, prompt: Sequence[int], output: Sequence[int], fields: Mapping[str, Any]) -> Any:
    for token in {*prompt, *output}:
        r = fields.get("repetition_penalty", 1.0)
        scores[token] = scores[token] / r if scores[token] > 0 else scores[token] * r
    for token in output:
        scores[token] -= fields.get("frequency_penalty", 0.0)
    for token in set(output):
        scores[token] -= fields.get("presence_penalty", 0.0)
    return scores


def nucleus(scores: Any, fields: Mapping[str, Any]) -> Any:
    """min_p, then top_k, then top_p."""
    probabilities = np.exp(log_softmax(scores))
    scores[probabilities < fields.get("min_p", 0.0) * probabilities.max()] = -np.inf
    if fields.get("top_k", -1) > 0:
        scores[scores < np.sort(scores)[-min(fields["top_k"], len(scores))]] = -np.inf
    if fields.get("top_p", 1.0) < 1:
        probabilities = np.exp(log_softmax(scores))
        ascending = np.argsort(probabilities)
        low_tail = np.cumsum(probabilities[ascending]) <= 1 - fields["top_p"]
        scores[ascending[:-1][low_tail[:-1]]] = -np.inf  # at least one stays
    return scores


def log_softmax(scores: Any) -> Any:
    shifted = scores - scores.max()
    return shifted - np.log(np.exp(shifted).sum())


def token_of(byte: int) -> int:
    """Ids of the byte tokenizer: bytes in the order of the characters that stand for them."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]  # characters that stand for themselves
    others = [other for other in range(256) if other not in own]
    return own.index(byte) if byte in own else len(own) + others.index(byte)


# --- the sampler ------------------------------------------------------------------------------------------------------

NO_DRAW = frozenset({Stage.DRAW})


def row_of(chat: Chat, fields: Mapping[str, Any], output: Sequence[int] = (), seed: int = 0) -> Row:
    row = Row(chat.plan(MESSAGES, max_tokens=500, **fields), chat.model, draws=Draws(seed))
    row.output_ids = list(output)
    return row


def sampled(rows: Sequence[Row], logits: Any) -> Any:
    """Log-probabilities of the next token of each row, before the draw."""
    scores = torch.tensor(np.array(logits), dtype=torch.float32)
    return Sampler(rows, CPU, skip=NO_DRAW)(scores).log_softmax(dim=-1).numpy()


def assert_same(got: Any, wanted: Any, what: object = "") -> None:
    """The same tokens can be drawn, with the same probabilities as far as float32 tells."""
    assert np.flatnonzero(np.isfinite(got)).tolist() == np.flatnonzero(np.isfinite(wanted)).tolist(), what
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4, err_msg=str(what))


def logits_of(seed: int, rows: int = 1) -> Any:
    return np.random.default_rng(seed).normal(0.0, 3.0, (rows, VOCABULARY))


def test_the_byte_tokenizer_is_read_as_it_is(tiny: Chat) -> None:
    text = "Aé \n\x00~ÿ"
    assert tiny.model.tokenizer.encode(text, add_special_tokens=False) == [token_of(byte) for byte in text.encode()]


B = token_of(ord("b"))
OUT = [5, 7, 7, 9, 9, 9, token_of(ord("a"))]
ALONE: dict[str, dict[str, Any]] = {
    "nothing": {},
    "default temperature": {"temperature": None},
    "temperature": {"temperature": 1.7},
    "low temperature": {"temperature": 0.3},
    "temperature too low to divide by": {"temperature": 0.003},
    "repetition": {"repetition_penalty": 1.4},
    "repetition below one": {"repetition_penalty": 0.6},
    "frequency": {"frequency_penalty": 1.3},
    "negative frequency": {"frequency_penalty": -1.1},
    "presence": {"presence_penalty": 1.2},
    "negative presence": {"presence_penalty": -2.0},
    "min_p": {"min_p": 0.07},
    "min_p of one": {"min_p": 1.0},
    "top_k": {"top_k": 11},
    "top_k of one": {"top_k": 1},
    "top_k of all": {"top_k": 10_000},
    "top_k off": {"top_k": 0},
    "top_p": {"top_p": 0.6},
    "small top_p": {"top_p": 1e-6},
    "logit_bias": {"logit_bias": {"3": 5.5, "9": -4.0, "299": 100}},
    "logit_bias out of bounds": {"logit_bias": {"3": 250.0, "4": -250.0, "8": 99.0}},
    "allowed": {"allowed_token_ids": [2, 3, 5, 257]},
    "bad word": {"bad_words": ["b"]},
    "bad words of several tokens": {"bad_words": ["ab", "xyz", "bb"]},
    "min_tokens not reached": {"min_tokens": 8},
    "min_tokens reached": {"min_tokens": 7},
    "min_tokens and stop tokens": {"min_tokens": 20, "stop_token_ids": [1, 9]},
    "min_tokens without eos": {"min_tokens": 20, "stop_token_ids": [1, 9], "ignore_eos": True},
    "all penalties": {"repetition_penalty": 1.3, "frequency_penalty": 0.4, "presence_penalty": 0.9},
    "all filters": {"min_p": 0.01, "top_k": 20, "top_p": 0.8, "temperature": 1.5},
    "everything": {
        "allowed_token_ids": [*range(0, VOCABULARY, 2), EOS, B],
        "bad_words": ["ab", "c"],
        "min_tokens": 9,
        "stop_token_ids": [8],
        "logit_bias": {"2": 3.0, "4": 6.0, "6": -2.0, str(B): 90, "257": 90},
        "repetition_penalty": 1.2,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.5,
        "temperature": 1.4,
        "min_p": 0.004,
        "top_k": 30,
        "top_p": 0.9,
    },
}


@pytest.mark.parametrize("fields", ALONE.values(), ids=ALONE.keys())
@pytest.mark.parametrize("output", [[], OUT], ids=["first token", "later token"])
def test_one_row(tiny: Chat, fields: dict[str, Any], output: list[int]) -> None:
    fields = {key: value for key, value in {**OFF, **fields}.items() if value is not None}
    row = row_of(tiny, fields, output)
    for seed in range(3):
        logits = logits_of(seed)
        assert_same(sampled([row], logits)[0], defined(logits[0], row.prompt_ids, output, fields))


def test_rows_with_different_wishes_at_once(tiny: Chat) -> None:
    wishes = [{**OFF, **{k: v for k, v in fields.items() if v is not None}} for fields in ALONE.values()]
    outputs = [OUT[: at % (len(OUT) + 1)] for at in range(len(wishes))]
    rows = [row_of(tiny, fields, output) for fields, output in zip(wishes, outputs, strict=True)]
    logits = logits_of(7, len(rows))
    for at, got in enumerate(sampled(rows, logits)):
        assert_same(got, defined(logits[at], rows[at].prompt_ids, outputs[at], wishes[at]), list(ALONE)[at])


def test_rows_without_processors_are_left_alone(tiny: Chat) -> None:
    greedy = {"temperature": 0}
    rows = [row_of(tiny, wish, OUT) for wish in (greedy, ALONE["everything"], greedy)]
    logits = logits_of(3, 3).astype(np.float32)
    scores = Sampler(rows, CPU, skip=NO_DRAW)(torch.tensor(logits)).numpy()
    np.testing.assert_array_equal(scores[[0, 2]], logits[[0, 2]])
    assert not np.array_equal(scores[1], logits[1])


def test_greedy_rows_are_processed_but_not_filtered(tiny: Chat) -> None:
    """Temperature 0 takes the highest score after bias and penalties, whatever top_p, top_k and min_p say."""
    fields = {"temperature": 0, "logit_bias": {"3": 50}, "repetition_penalty": 1.5, "top_k": 2, "top_p": 0.1}
    row = row_of(tiny, fields, OUT)
    logits = logits_of(4)
    scores = Sampler([row], CPU)(torch.tensor(logits, dtype=torch.float32))
    assert scores.argmax().item() == 3
    assert torch.isfinite(scores).all()


def test_equal_scores_at_the_border_of_top_k_stay(tiny: Chat) -> None:
    logits = np.full((1, VOCABULARY), -5.0)
    logits[0, [10, 20, 30, 40]] = [4.0, 2.0, 2.0, 1.0]
    got = sampled([row_of(tiny, {"temperature": 1.0, "top_k": 2})], logits)[0]
    assert np.flatnonzero(np.isfinite(got)).tolist() == [10, 20, 30]


@pytest.mark.parametrize(("top_p", "kept"), [(0.3, 1), (0.45, 1), (0.55, 2), (0.85, 3), (0.999, 4), (1.0, 5)])
def test_top_p_keeps_the_fewest_that_reach_it(tiny: Chat, top_p: float, kept: int) -> None:
    logits = np.full((1, VOCABULARY), -np.inf)
    logits[0, :5] = np.log([0.5, 0.3, 0.15, 0.04999, 0.00001])
    got = sampled([row_of(tiny, {"temperature": 1.0, "top_p": top_p})], logits)[0]
    assert np.flatnonzero(np.isfinite(got)).tolist() == list(range(kept))


ORDERS: list[tuple[dict[str, Any], int]] = [
    ({"min_p": 0.3, "top_p": 0.65}, 1),  # 0.5 and 0.2 are left, of which 0.5 is 71%
    ({"top_k": 2, "top_p": 0.65}, 1),
    ({"temperature": 0.5, "top_p": 0.65}, 1),  # squares: 0.25 of 0.32
    ({"temperature": 0.5, "min_p": 0.3}, 1),
    ({"temperature": 0.5, "min_p": 0.1}, 2),
    ({"top_p": 0.65}, 2),
]


@pytest.mark.parametrize(("fields", "kept"), ORDERS, ids=str)
def test_each_filter_reads_what_the_one_before_left(tiny: Chat, fields: dict[str, Any], kept: int) -> None:
    logits = np.full((1, VOCABULARY), -np.inf)
    logits[0, :5] = np.log([0.5, 0.2, 0.1, 0.1, 0.1])
    got = sampled([row_of(tiny, {"temperature": 1.0, **fields})], logits)[0]
    assert np.flatnonzero(np.isfinite(got)).tolist() == list(range(kept))


def test_a_nucleus_of_nearly_the_whole_vocabulary(tiny: Chat) -> None:
    """A flat distribution, where looking at the likeliest few hundred tokens is not enough."""
    logits = np.random.default_rng(0).normal(0.0, 0.01, (2, 50_000))
    rows = [row_of(tiny, {"temperature": 1.0, "top_p": p}) for p in (0.9, 1e-3)]
    got = sampled(rows, logits)
    assert abs(np.isfinite(got[0]).sum() - 45_000) < 500
    assert abs(np.isfinite(got[1]).sum() - 50) < 5


def test_repetition_counts_the_prompt_and_the_others_do_not(tiny: Chat) -> None:
    prompted = token_of(ord("T"))
    logits = np.ones((2, VOCABULARY))
    rows = [row_of(tiny, {**OFF, "repetition_penalty": 2.0}), row_of(tiny, {**OFF, "frequency_penalty": 2.0})]
    repetition, frequency = sampled(rows, logits)
    assert prompted in rows[0].prompt_ids
    assert repetition[prompted] < repetition[0]
    assert frequency[prompted] == frequency[0]


@pytest.mark.parametrize("name", ["repetition_penalty", "frequency_penalty", "presence_penalty"])
def test_counts_follow_the_answer(tiny: Chat, name: str) -> None:
    """One sampler, step after step, equals a sampler made anew for the tokens so far."""
    fields = [{**OFF, name: 1.5}, OFF, {**OFF, name: 0.7}]
    rows = [row_of(tiny, wish) for wish in fields]
    sampler = Sampler(rows, CPU, skip=NO_DRAW)
    for step in range(5):
        logits = logits_of(step, 3)
        got = sampler(torch.tensor(logits, dtype=torch.float32)).log_softmax(-1).numpy()
        for row, scores, own, wish in zip(rows, got, logits, fields, strict=True):
            assert_same(scores, defined(own, row.prompt_ids, row.output_ids, wish))
        tokens = torch.tensor([step % 2, 4, 299])
        sampler.advance(tokens)
        for row, token in zip(rows, tokens.tolist(), strict=True):
            row.output_ids.append(token)


WISHES = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.2, 0.7, 1.0, 2.0])},
    optional={
        "repetition_penalty": st.floats(0.5, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "presence_penalty": st.floats(-2.0, 2.0),
        "min_p": st.just(0.0) | st.floats(1e-6, 1.0),
        "top_k": st.integers(-1, 320),
        "top_p": st.floats(0.01, 1.0),
        "min_tokens": st.integers(0, 4),
        "stop_token_ids": st.lists(st.integers(0, 299), max_size=2),
        "logit_bias": st.dictionaries(st.integers(0, 299).map(str), st.floats(-100, 100), min_size=1, max_size=3),
    },
)
ROWS = st.lists(st.tuples(WISHES, st.lists(st.integers(0, 299), max_size=6)), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 1000))
def test_any_wishes(tiny: Chat, rows: list[tuple[dict[str, Any], list[int]]], seed: int) -> None:
    made = [row_of(tiny, fields, output) for fields, output in rows]
    logits = logits_of(seed, len(rows))
    wanted = []
    for (fields, output), row, own in zip(rows, made, logits, strict=True):
        wanted.append(defined(own, row.prompt_ids, output, fields))
        for border in (1 + 1e-5, 1 - 1e-5):  # no token may sit so close to a border that float32 decides
            moved: dict[str, Any] = {
                name: min(1.0, fields[name] * border) for name in ("min_p", "top_p") if name in fields
            }
            near = defined(own, row.prompt_ids, output, {**fields, **moved})
            assume(np.array_equal(np.isfinite(near), np.isfinite(wanted[-1])))
    for (fields, _), got, right in zip(rows, sampled(made, logits), wanted, strict=True):
        assert_same(got, right, fields)
