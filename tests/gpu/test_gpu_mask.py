"""The grammar's mask on the device bans what it bans on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatplan import Row
from chatplan.engine.sampler import Sampler
from chatplan.guided.mask import apply_mask

pytestmark = pytest.mark.gpu
HELLO = [{"role": "user", "content": "Hello there"}]
FIELDS: list[dict[str, Any]] = [
    {"guided_regex": "[a-c]{2}[0-9]{3}"},
    {"guided_choice": ["yes", "no", "perhaps"]},
    {"guided_json": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}},
]


@pytest.mark.parametrize("width", [1, 31, 32, 33, 300, 49_153])
def test_a_score_stays_where_its_bit_is_set(device: torch.device, width: int) -> None:
    torch.manual_seed(width)
    words = (width + 31) // 32
    masks = torch.randint(-(2**31), 2**31, (5, words), dtype=torch.int32)
    masks[0], masks[1] = -1, 0
    scores = torch.randn(5, width)
    found = apply_mask(scores.clone().to(device), masks).cpu()
    allowed = torch.tensor([[mask[at // 32] >> at % 32 & 1 for at in range(width)] for mask in masks.tolist()])
    assert torch.equal(found, scores.masked_fill(allowed == 0, -torch.inf))


def test_rows_with_and_without_grammars_keep_to_their_own(device: torch.device, tiny: Any) -> None:
    """Step by step, each row with a grammar of its own and one with none; the CPU's copy goes the same way."""
    fields = [*FIELDS, {}]
    here, there = ([Row(tiny.plan(HELLO, temperature=0, **each), tiny.model) for each in fields] for _ in range(2))
    torch.manual_seed(5)
    for _ in range(6):
        scores = torch.randn(len(fields), tiny.model.logits_width)
        found = Sampler(here, device)(scores.clone().to(device)).cpu()
        assert torch.equal(found, Sampler(there, torch.device("cpu"))(scores.clone()))
        wanted = [bool(each) and not row.finished for each, row in zip(fields, here, strict=True)]
        assert [bool(row.isneginf().any()) for row in found] == wanted
        for row, token in zip([*here, *there], [*found.argmax(dim=-1).tolist()] * 2, strict=True):
            row.push(token)
    assert all(row.error is None for row in here)
