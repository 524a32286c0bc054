"""Linear layers with weights laid out once for the CPU's matrix products, instead of anew at every call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad as pad_rows
from transformers import PreTrainedModel

__all__ = ["PackedLinear", "can_pack", "few_sizes", "pack", "unpack"]

# The layout that was fastest or as fast as any from 1 to 512 rows.
_ROWS = 32


class PackedLinear(nn.Module):
    """A ``torch.nn.Linear`` for inference on a CPU; its weight is oneDNN's own layout and no parameter."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features: int = linear.in_features
        self.out_features: int = linear.out_features
        self.bias: torch.nn.Parameter = linear.bias
        self.packed: Any = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.dtype: torch.dtype = linear.weight.dtype

    def forward(self, features: torch.Tensor) -> Any:
        """``[..., in_features]`` to ``[..., out_features]``."""
        rows = features.numel() // self.in_features
        extra = few_sizes(rows) - rows
        if not extra:
            return torch.ops.mkldnn._linear_pointwise(features, self.packed, self.bias, "none", [], "")
        padded = pad_rows(features.reshape(rows, self.in_features), (0, 0, 0, extra))
        output = torch.ops.mkldnn._linear_pointwise(padded, self.packed, self.bias, "none", [], "")
        return output[:rows].view(*features.shape[:-1], self.out_features)

    def plain(self) -> nn.Linear:
        """The layer it was made of."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, dtype=self.dtype, device="meta")
        linear.weight = nn.Parameter(self.packed.to_dense().to(self.dtype), requires_grad=False)
        linear.bias = self.bias
        return linear


def few_sizes(rows: int) -> int:
    """``rows``, or somewhat more. oneDNN makes code for each number of rows and keeps it, so there should be few."""
    step = 1 if rows <= 8 else 8 if rows <= 64 else 16 if rows <= 128 else 64
    return -(-rows // step) * step


def can_pack(module: nn.Module) -> bool:
    """Whether this is a plain linear layer in memory, in a type that the CPU multiplies natively."""
    if type(module) is not nn.Linear or module.weight.device.type != "cpu" or hasattr(module, "_hf_hook"):
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    dtype = module.weight.dtype
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(model: nn.Module) -> int:
    """Pack the linear layers of ``model``, in place; returns how many. Further calls find nothing to do.

    A weight that is also an embedding stays there too, so the embedding's memory is not given back.
    """
    return _replace(model, lambda child: PackedLinear(child) if can_pack(child) else None)


def unpack(model: nn.Module) -> None:
    """Undo :func:`pack`, and share a weight with the embeddings again where the model does."""
    count = _replace(model, lambda child: child.plain() if isinstance(child, PackedLinear) else None)
    if count and isinstance(model, PreTrainedModel):
        model.tie_weights()


def _replace(model: nn.Module, new: Callable[[Any], nn.Module | None]) -> int:
    """Put what ``new`` makes of a layer in its place, unless that is ``None``; returns how many it was."""
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    count = 0
    for parent, name, child in found:
        layer = new(child)
        if layer is not None:
            setattr(parent, name, layer)
            count += 1
    return count
