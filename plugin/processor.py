"""Work on logits: what one request wants, and how the rows that want the same are served at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    import torch

    from chatplan.plan import Stage
    from chatplan.row import Row

__all__ = ["BatchFunction", "Processor"]

BatchFunction = Callable[["torch.Tensor"], "torch.Tensor"]
"""Takes scores, float32 ``[rows, vocabulary]``, and returns them changed, in place or new.

A callable object may also have ``advance(tokens)``, called after each step with the drawn tokens, int64 ``[rows]``.
"""


class Processor(ABC):
    """What one request wants done to its logits: a frozen dataclass, so that the plan holding it prints and compares.

    Rows of a batch whose plans hold a processor of the same class are served together: :meth:`for_rows` gets all of
    them and returns one function over their scores. It is called again whenever rows come or go, so state that must
    outlive a row's neighbours is rebuilt from ``row.prompt_ids`` and ``row.output_ids``.
    """

    stage: ClassVar[Stage]

    @classmethod
    @abstractmethod
    def for_rows(cls, processors: Sequence[Any], rows: Sequence[Row], device: torch.device) -> BatchFunction:
        """One function for all these rows; ``processors[i]`` is the wish of ``rows[i]``."""


def column(values: Sequence[float], device: torch.device) -> torch.Tensor:
    """``values`` as a float32 tensor ``[rows, 1]``, ready to broadcast over the vocabulary."""
    import torch

    return torch.tensor(values, dtype=torch.float32, device=device)[:, None]
