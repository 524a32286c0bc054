"""Packed linear layers: the same numbers, the same model when they are unpacked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from chatplan.engine.packed import PackedLinear, can_pack, few_sizes, pack, unpack

DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (1, 9), (3, 7), (1, 70), (1, 200), (64,)], ids=str)
def test_a_packed_layer_multiplies_as_before(dtype: torch.dtype, bias: bool, shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    linear = nn.Linear(24, 40, bias=bias, dtype=dtype)
    if not can_pack(linear):
        pytest.skip(f"this CPU does not multiply {dtype}")
    features = torch.randn(*shape, 24, dtype=dtype)
    with torch.no_grad():
        assert torch.allclose(
            PackedLinear(linear)(features), linear(features), atol=1e-5 if dtype.itemsize == 4 else 0.03
        )


def test_there_are_few_sizes() -> None:
    sizes = {few_sizes(rows) for rows in range(1, 513)}
    assert len(sizes) < 30
    assert all(rows <= few_sizes(rows) < rows + max(8, rows / 2) for rows in range(1, 2000))


def test_what_is_not_packed() -> None:
    assert not can_pack(nn.Linear(2, 2, dtype=torch.float64))
    assert not can_pack(nn.Linear(2, 2, device="meta"))
    assert not can_pack(nn.Embedding(2, 2))

    class Other(nn.Linear):
        """Quantised and adapted layers are of other classes."""

    assert not can_pack(Other(2, 2))


@pytest.mark.parametrize("tied", [False, True])
def test_packing_and_back(tied: bool) -> None:
    config = LlamaConfig(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                         num_attention_heads=2, tie_word_embeddings=tied)  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before, weights = model(ids).logits, {name: value.clone() for name, value in model.state_dict().items()}
        assert pack(model) == 15
        assert pack(model) == 0
        assert torch.allclose(model(ids).logits, before, atol=1e-5)
        unpack(model)
        assert torch.equal(model(ids).logits, before)
    after = model.state_dict()
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied


def test_the_plain_weights_are_given_back(new_model: Callable[[], Any]) -> None:
    model = new_model()
    before = sum(parameter.numel() for parameter in model.parameters())
    pack(model)
    after = sum(parameter.numel() for parameter in model.parameters())
    assert after < before / 2
