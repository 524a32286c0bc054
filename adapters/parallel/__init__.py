"""One model on several devices, by tensor parallel: rank 0 answers, the others repeat its steps."""

from __future__ import annotations

from chatplan.adapters.parallel.loading import share, tensor_parallel

__all__ = ["share", "tensor_parallel"]
