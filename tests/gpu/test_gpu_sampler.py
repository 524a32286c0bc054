"""Draws hang on the seed, the position and the logits, and not on the device."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatplan import Row
from chatplan.draws import Draws
from chatplan.engine.sampler import Sampler
from chatplan.hooks.sampling import gumbel, mix

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
HELLO = [{"role": "user", "content": "Hello there"}]
ROWS, STEPS = 8, 6
FIELDS: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 1.3},
    "top_k": {"temperature": 1, "top_k": 20},
    "top_p": {"temperature": 1, "top_p": 0.8},
    "min_p": {"temperature": 1, "min_p": 0.05},
    "penalties": {"temperature": 1, "repetition_penalty": 1.3, "frequency_penalty": 0.5, "presence_penalty": 0.4},
    "bias": {"temperature": 1, "logit_bias": {"65": 5, "66": -100}, "min_tokens": 4},
    "allowed": {"temperature": 1, "allowed_token_ids": [65, 66, 67, 68], "bad_words": ["AB"]},
    "processed": {"temperature": 1, "logprobs": True, "top_logprobs": 3},
    "greedy": {"temperature": 0, "frequency_penalty": 2},
}


def rows_of(chat: Any, several: list[dict[str, Any]]) -> list[Row]:
    return [Row(chat.plan(HELLO, max_tokens=50, ignore_eos=True, **fields), chat.model, draws=Draws(number))
            for number, fields in enumerate(several)]  # fmt: skip


def tokens_of(rows: list[Row], on: torch.device) -> list[list[int]]:
    """What each row draws out of logits that are given."""
    sampler = Sampler(rows, on)
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        logits = 4 * torch.randn(len(rows), rows[0].model.logits_width, generator=generator)
        drawn = sampler(logits.to(on)).argmax(dim=-1)
        sampler.advance(drawn)
        for row, token in zip(rows, drawn.tolist(), strict=True):
            row.push(token)
    return [row.output_ids for row in rows]


@pytest.mark.parametrize("name", FIELDS)
def test_seeded_draws_are_those_of_the_cpu(device: torch.device, tiny: Any, name: str) -> None:
    here, there = rows_of(tiny, [FIELDS[name]] * ROWS), rows_of(tiny, [FIELDS[name]] * ROWS)
    expected = tokens_of(there, CPU)
    assert tokens_of(here, device) == expected
    assert len({tuple(ids) for ids in expected}) > 1
    assert all(row.error is None and len(row.output_ids) == STEPS for row in here)


def test_rows_of_all_kinds_in_one_batch_draw_as_on_the_cpu(device: torch.device, tiny: Any) -> None:
    here, there = rows_of(tiny, [*FIELDS.values()]), rows_of(tiny, [*FIELDS.values()])
    assert tokens_of(here, device) == tokens_of(there, CPU)


def test_log_probabilities_are_those_of_the_cpu(device: torch.device, tiny: Any) -> None:
    fields = [FIELDS["processed"]] * ROWS
    logits = torch.randn(ROWS, tiny.model.logits_width, generator=torch.Generator().manual_seed(1))
    found = []
    for on in (device, CPU):
        rows = rows_of(tiny, fields)
        sampler = Sampler(rows, on)
        sampler.advance(sampler(logits.clone().to(on)).argmax(dim=-1))
        found.append([row.scores for row in rows])
    for mine, theirs in zip(*found, strict=True):
        assert mine is not None
        assert theirs is not None
        assert mine.rank == theirs.rank
        assert mine.logprob == pytest.approx(theirs.logprob, abs=1e-5)
        assert [each[0] for each in mine.top] == [each[0] for each in theirs.top]


def test_the_hash_is_the_same_number_for_number(device: torch.device) -> None:
    numbers = torch.randint(-(2**31), 2**31, (1000,), dtype=torch.int32, generator=torch.Generator().manual_seed(2))
    assert torch.equal(mix(numbers.clone().to(device)).cpu(), mix(numbers.clone()))
    keys = numbers[:20].view(10, 2)
    torch.testing.assert_close(gumbel(keys.to(device), 50_000).cpu(), gumbel(keys, 50_000), rtol=1e-5, atol=1e-6)
