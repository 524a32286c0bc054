"""Attention on transformers' paged cache for CPUs: each request attends to its own tokens and to nothing else.

transformers' own ``sdpa`` on a paged cache sees one sequence of all requests under one mask, so its work grows with the
square of the number of requests. Here the rows that decode are gathered into one batch, and each prompt runs alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

__all__ = ["NAME", "paged_attention"]

NAME = "chatplan_paged"

# Where two batched products beat the fused kernel, which on CPUs pays for each request and head.
_MANY = 8


class Span(NamedTuple):
    """Where a request's queries and keys are: half-open ranges over the step's tokens and over the keys read."""

    query: slice
    keys: slice

    @property
    def queries(self) -> int:
        return int(self.query.stop - self.query.start)

    @property
    def length(self) -> int:
        return int(self.keys.stop - self.keys.start)


@dataclass
class Prompt:
    """Several tokens of one request: the cache rows of all its keys, and the mask where keys come before queries."""

    span: Span
    rows: torch.Tensor
    mask: torch.Tensor | None


@dataclass
class Decoding:
    """Requests with one query each: which queries, cache rows ``[requests, longest]``, and a mask of the padding."""

    queries: torch.Tensor
    rows: torch.Tensor
    mask: torch.Tensor | None
    _fine: torch.Tensor | None = None

    def rows_of_heads(self, heads: int) -> torch.Tensor:
        """Rows of a cache seen as ``[rows * heads, width]``, in the order ``[requests, heads, longest]``; flat."""
        if self._fine is None:
            self._fine = (self.rows[:, None, :] * heads + torch.arange(heads)[None, :, None]).flatten()
        return self._fine


@dataclass
class Layout:
    """How one step's tokens fall into requests; it is the same for every layer."""

    key: Any
    prompts: list[Prompt]
    decoding: Decoding | None


def paged_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of one step: ``query`` is ``[1, heads, tokens, width]``; returns ``[1, tokens, heads, width]``.

    The tokens of all requests stand one after another; the other arguments are those of transformers' continuous
    batching. Keys and values are written to the cache first.
    """
    cache = kwargs["cache"]
    allocator = cache.layer_to_allocator[module.layer_idx]
    keys, values = allocator._kv_token_views[module.layer_idx]
    write = kwargs["write_index"][allocator.index]
    keys.index_copy_(0, write, key[0].transpose(0, 1))
    values.index_copy_(0, write, value[0].transpose(0, 1))
    layout = layout_of(cache, allocator, kwargs, query)
    queries = query[0].transpose(0, 1)
    if layout.decoding is not None and not layout.prompts:
        return decode(layout.decoding, queries, keys, values, scaling)[None], None
    output = torch.empty_like(queries, memory_format=torch.contiguous_format)
    if layout.decoding is not None:
        decoding = layout.decoding
        output[decoding.queries] = decode(decoding, queries[decoding.queries], keys, values, scaling)
    for prompt in layout.prompts:
        output[prompt.span.query] = prefill(prompt, query, keys, values, scaling)
    return output[None], None


def layout_of(cache: Any, allocator: Any, kwargs: dict[str, Any], query: torch.Tensor) -> Layout:
    """This step's layout, made by its first layer and kept on the cache for the others."""
    found: Layout | None = getattr(cache, "_chatplan_layout", None)
    if found is None or found.key is not kwargs["read_index"]:
        ends_q = kwargs["cu_seq_lens_q"].tolist()
        ends_k = kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
        borders = zip(itertools.pairwise(ends_q), itertools.pairwise(ends_k), strict=True)
        spans = [Span(slice(*q), slice(*k)) for q, k in borders]
        read = kwargs["read_index"][allocator.index]
        # Without cached tokens there is nothing to read, and what is written are all the keys.
        rows = read if read.numel() else kwargs["write_index"][allocator.index]
        found = cache._chatplan_layout = make_layout(kwargs["read_index"], spans, rows, query)
    return found


def make_layout(key: Any, spans: Sequence[Span], rows: torch.Tensor, query: torch.Tensor) -> Layout:
    """The layout of requests at ``spans``; ``rows`` are the cache rows of all their keys, one after another."""
    prompts = [
        Prompt(span, rows[span.keys], causal_mask(span.queries, span.length)) for span in spans if span.queries > 1
    ]
    single = [span for span in spans if span.queries == 1]
    return Layout(key, prompts, gathered(single, rows, query) if single else None)


def causal_mask(queries: int, length: int) -> torch.Tensor | None:
    """Bool ``[queries, length]``: the last query sees every key. ``None`` where the kernel's own triangle will do."""
    if queries == length:
        return None
    return torch.ones(queries, length, dtype=torch.bool).tril_(length - queries)


def gathered(spans: Sequence[Span], rows: torch.Tensor, query: torch.Tensor) -> Decoding:
    """Cache rows of requests with one query each, padded at the end with the first one's."""
    starts = torch.tensor([span.keys.start for span in spans])
    lengths = torch.tensor([span.length for span in spans])
    steps = torch.arange(max(span.length for span in spans))
    valid = steps < lengths[:, None]
    picked = rows[(starts[:, None] + steps).masked_fill_(~valid, 0)]
    mask = None
    if not bool(valid.all()):
        mask = torch.zeros(valid.shape, dtype=query.dtype).masked_fill_(~valid, -torch.inf)[:, None, None, :]
    return Decoding(torch.tensor([span.query.start for span in spans]), picked, mask)


def decode(
    wish: Decoding, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """One token for each request: ``queries`` is ``[requests, heads, width]``, and so is the result.

    The heads that share a key stand as queries of that key's head, so no key is copied for them.
    """
    requests, longest = wish.rows.shape
    shared, width = keys.shape[1:]
    if requests >= _MANY and queries.dtype == torch.bfloat16:
        return decode_many(wish, queries, keys, values, width**-0.5 if scaling is None else scaling)
    flat = wish.rows.flatten()
    k, v = (each.index_select(0, flat).view(requests, longest, shared, -1).transpose(1, 2) for each in (keys, values))
    packed = queries.reshape(requests, shared, -1, width)
    return scaled_dot_product_attention(packed, k, v, attn_mask=wish.mask, scale=scaling).flatten(1, 2)


def decode_many(
    wish: Decoding, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
) -> torch.Tensor:
    """The same by batched products over requests times heads; the softmax is in float32."""
    requests, longest = wish.rows.shape
    shared, width = keys.shape[1:]
    rows = wish.rows_of_heads(shared)
    k, v = (
        each.view(-1, each.shape[-1]).index_select(0, rows).view(requests * shared, longest, -1)
        for each in (keys, values)
    )
    scores = torch.bmm(queries.reshape(requests * shared, -1, width) * scaling, k.transpose(1, 2)).float()
    if wish.mask is not None:
        scores.view(requests, shared, -1, longest).add_(wish.mask)
    return torch.bmm(scores.softmax(dim=-1).to(v.dtype), v).reshape(*queries.shape[:2], -1)


def prefill(
    prompt: Prompt, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """Several tokens of one request; ``[tokens, heads, width]``."""
    k, v = (each.index_select(0, prompt.rows).transpose(0, 1)[None] for each in (keys, values))
    causal = prompt.mask is None
    q = query[:, :, prompt.span.query]
    output = scaled_dot_product_attention(
        q, k, v, attn_mask=prompt.mask, is_causal=causal, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )
    return output[0].transpose(0, 1)


AttentionInterface.register(NAME, paged_attention)
