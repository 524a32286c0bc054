"""Attention on a paged cache: what each query sees, against plain attention over that request alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from chatplan.engine.paged import causal_mask, paged_attention

HEADS, SHARED, WIDTH, ROWS = 6, 2, 16, 400


class Cache:
    """A cache of rows in any order, as transformers' allocator keeps it; it remembers each request's own rows."""

    def __init__(self, requests: list[tuple[int, int]], dtype: torch.dtype) -> None:
        """``requests`` are (tokens cached, tokens now)."""
        torch.manual_seed(3)
        order = torch.randperm(ROWS)
        self.keys, self.values = (torch.randn(ROWS, SHARED, WIDTH).to(dtype) for _ in range(2))
        self.index, self.layer_type = 0, "full_attention"
        self._kv_token_views = {0: (self.keys, self.values)}
        self.layer_to_allocator = {0: self}
        self.rows: list[torch.Tensor] = []
        for past, now in requests:
            taken = sum(len(rows) for rows in self.rows)
            self.rows.append(order[taken : taken + past + now])


def step(requests: list[tuple[int, int]], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes out, and what should: both ``[tokens, heads, width]``."""
    cache = Cache(requests, dtype)
    total = sum(now for _, now in requests)
    query = torch.randn(1, HEADS, total, WIDTH).to(dtype)
    key, value = (torch.randn(1, SHARED, total, WIDTH).to(dtype) for _ in range(2))
    ends_q, ends_k = [0], [0]
    for past, now in requests:
        ends_q.append(ends_q[-1] + now)
        ends_k.append(ends_k[-1] + past + now)
    cached = any(past for past, _ in requests)
    write = torch.cat([rows[past:] for rows, (past, _) in zip(cache.rows, requests, strict=True)])
    read = torch.cat(cache.rows) if cached else torch.empty(0, dtype=torch.long)
    kwargs: dict[str, Any] = {
        "cache": cache,
        "cu_seq_lens_q": torch.tensor(ends_q),
        "cu_seq_lens_k": {"full_attention": torch.tensor(ends_k)},
        "read_index": [read],
        "write_index": [write],
    }
    module: Any = SimpleNamespace(layer_idx=0)
    output, _ = paged_attention(module, query, key, value, None, scaling=0.3, **kwargs)
    return output[0], expected(cache, requests, query)


def expected(cache: Cache, requests: list[tuple[int, int]], query: torch.Tensor) -> torch.Tensor:
    outputs, start = [], 0
    for rows, (past, now) in zip(cache.rows, requests, strict=True):
        own = query[:, :, start : start + now].float()
        k, v = (each[rows].transpose(0, 1)[None].float() for each in (cache.keys, cache.values))
        mask = torch.ones(now, past + now, dtype=torch.bool).tril(past)
        outputs.append(scaled_dot_product_attention(own, k, v, attn_mask=mask, scale=0.3, enable_gqa=True)[0])
        start += now
    return torch.cat(outputs, dim=1).transpose(0, 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "requests",
    [
        [(0, 5)],
        [(0, 1)],
        [(0, 5), (0, 1), (0, 9)],
        [(7, 1)],
        [(7, 1), (3, 1), (20, 1)],
        [(past, 1) for past in range(3, 19)],
        [(7, 1), (0, 6), (4, 3), (0, 1), (12, 1)],
        [(4, 3)],
    ],
    ids=str,
)
def test_each_request_sees_its_own_past(requests: list[tuple[int, int]], dtype: torch.dtype) -> None:
    output, wanted = step(requests, dtype)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert output.shape == wanted.shape
    assert torch.allclose(output.float(), wanted, atol=tolerance)


def test_masks() -> None:
    assert causal_mask(3, 3) is None
    mask = causal_mask(2, 4)
    assert mask is not None
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
