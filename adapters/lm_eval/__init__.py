"""lm-eval's model ``chatplan``: benchmarks without a server. Importing this package registers it."""

from __future__ import annotations

from chatplan.adapters.lm_eval.model import ChatLM

__all__ = ["ChatLM"]
