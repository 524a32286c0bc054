"""Stopping criteria of plugins, each for the one row it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from chatplan.plan import StopTokens

if TYPE_CHECKING:
    from chatplan.row import Row

__all__ = ["plugin_criteria"]


def plugin_criteria(row: Row, device: torch.device) -> None:
    """A plain ``transformers.StoppingCriteria`` sees its own row alone; any of them ends it."""
    criteria = [item for item in row.plan.stopping_criteria if not isinstance(item, StopTokens)]
    if criteria and not row.finished:
        ids = torch.tensor([[*row.prompt_ids, *row.output_ids]], device=device)
        if any(bool(torch.as_tensor(criterion(ids, None)).all()) for criterion in criteria):
            row.finish("stop")
