"""How checkpoints are loaded, by all doors that load one."""

from __future__ import annotations

__all__ = ["dtype_argument", "likely_device"]


def dtype_argument(name: str) -> dict[str, str]:
    """The argument of ``from_pretrained`` for the type of the weights, which transformers 4 calls otherwise."""
    import transformers

    return {"dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype": name}


def likely_device() -> str:
    """The best device there is."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
