"""Linear layers with weights laid out once for the CPU's matrix products, instead of anew at every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

__all__ = ["PackedLinear", "can_pack", "pack", "unpack"]

# The layout that was fastest or as fast as any from 1 to 512 rows.
_ROWS = 32


class PackedLinear(nn.Module):
    """A ``torch.nn.Linear`` for inference on a CPU; its weight is oneDNN's own layout and no parameter."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.dtype = linear.weight.dtype

    def forward(self, features: torch.Tensor) -> Any:
        """``[..., in_features]`` to ``[..., out_features]``."""
        return torch.ops.mkldnn._linear_pointwise(features, self.packed, self.bias, "none", [], "")

    def plain(self) -> nn.Linear:
        """The layer it was made of."""
        linear = nn.Linear(self.in_features, self.out_features, bias=False, dtype=self.dtype, device="meta")
        linear.weight = nn.Parameter(self.packed.to_dense().to(self.dtype), requires_grad=False)
        linear.bias = self.bias
        return linear


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
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    work = [(parent, name, child) for parent, name, child in found if can_pack(child)]
    for parent, name, child in work:
        setattr(parent, name, PackedLinear(child))  # type: ignore[arg-type]
    return len(work)


def unpack(model: nn.Module) -> None:
    """Undo :func:`pack`, and share a weight with the embeddings again where the model does."""
    found = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    work = [(parent, name, child) for parent, name, child in found if isinstance(child, PackedLinear)]
    for parent, name, child in work:
        setattr(parent, name, child.plain())
    if work and isinstance(model, PreTrainedModel):
        model.tie_weights()
