"""Which rows run together, and the tensors they start from."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from chatplan.plan import ENGINE_ATTRIBUTES, describe

if TYPE_CHECKING:
    from chatplan.row import Row

__all__ = ["PER_ROW", "CausalLM", "batches", "generate_arguments", "input_device", "longest_row", "model_inputs"]

# Ways to end that a request decides, and rows see to.
_ENDS = ("stop_strings", "max_time", "min_new_tokens")

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
    """``input_ids`` and ``attention_mask``, int64 ``[rows, longest row]`` padded on the left, and further inputs."""
    longest = longest_row(rows)
    gaps = [longest - len(row.prompt_ids) - len(row.output_ids) for row in rows]
    ids = [[pad_token_id] * gap + [*row.prompt_ids, *row.output_ids] for gap, row in zip(gaps, rows, strict=True)]
    mask = [[0] * gap + [1] * (longest - gap) for gap in gaps]
    extra = {
        name: value.repeat_interleave(len(rows), 0).to(device) if isinstance(value, torch.Tensor) else value
        for name, value in rows[0].plan.prompt.inputs.items()
    }
    return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(mask, device=device), **extra}


def longest_row(rows: Sequence[Row]) -> int:
    """Tokens of the longest row so far, prompt and answer."""
    return max(len(row.prompt_ids) + len(row.output_ids) for row in rows)


def generate_arguments(model: CausalLM) -> dict[str, Any]:
    """Arguments that keep the checkpoint's defaults from coming back over what the plans decide.

    transformers 5 fills in what the configuration leaves ``None``; 4.5x also what equals the global default.
    """
    stated = [name for name in _ENDS if getattr(model.generation_config, name, None) is not None]
    arguments: dict[str, Any] = dict.fromkeys(stated)
    if "use_model_defaults" in inspect.signature(model.generate).parameters:
        arguments["use_model_defaults"] = False
    return arguments


def input_device(model: CausalLM) -> torch.device:
    """Where token ids must be: the device the embeddings run on, also when accelerate keeps the weights elsewhere."""
    hook = getattr(model.get_input_embeddings(), "_hf_hook", None)
    placed = getattr(hook, "execution_device", None)
    own: torch.device = model.device
    return own if placed is None else torch.device(placed)
