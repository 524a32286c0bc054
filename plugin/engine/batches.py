"""Which rows run together, and the tensors they start from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from chatplan.plan import ENGINE_ATTRIBUTES, describe

if TYPE_CHECKING:
    from chatplan.row import Row

__all__ = ["PER_ROW", "CausalLM", "batches", "input_device", "model_inputs"]

CausalLM = Any
"""A ``PreTrainedModel`` that is a ``GenerationMixin`` too; transformers has no type for both."""

# What may differ between the rows of one `generate` call: the engine keeps these for each row itself.
PER_ROW = {"max_new_tokens", "eos_token_id", "num_return_sequences", *ENGINE_ATTRIBUTES}


def batches(rows: Sequence[Row], size: int, pad: bool) -> Iterator[list[Row]]:
    """Groups of at most ``size`` rows that one ``generate`` call can serve, in order of their first row.

    Rows share a call when the rest of their GenerationConfig is the same; ``pad=False`` also asks for equal prompt
    lengths. Rows with further model inputs run only beside rows of the same request.
    """
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(_key(row, pad), []).append(row)
    for group in groups.values():
        if group[0].plan.beams > 1:
            yield group  # one search, however wide
            continue
        for start in range(0, len(group), size):
            yield group[start : start + size]


def _key(row: Row, pad: bool) -> tuple[Any, ...]:
    shared = {key: value for key, value in row.plan.generation_config.items() if key not in PER_ROW}
    alone = id(row.plan) if row.plan.prompt.inputs or row.plan.beams > 1 else None
    return json.dumps(describe(shared), sort_keys=True), alone, None if pad else len(row.prompt_ids)


def model_inputs(rows: Sequence[Row], pad_token_id: int, device: torch.device) -> dict[str, Any]:
    """``input_ids`` and ``attention_mask``, int64 ``[rows, longest prompt]`` padded on the left, and further inputs."""
    longest = max(len(row.prompt_ids) for row in rows)
    gaps = [longest - len(row.prompt_ids) for row in rows]
    ids = [[pad_token_id] * gap + list(row.prompt_ids) for gap, row in zip(gaps, rows, strict=True)]
    mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
    extra = {
        name: value.repeat_interleave(len(rows), 0).to(device) if isinstance(value, torch.Tensor) else value
        for name, value in rows[0].plan.prompt.inputs.items()
    }
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device), **extra}


def input_device(model: CausalLM) -> torch.device:
    """Where token ids must be: the device the embeddings run on, also when accelerate keeps the weights elsewhere."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    placed = getattr(hook, "execution_device", None)
    own: torch.device = model.device
    return own if placed is None else torch.device(placed)
