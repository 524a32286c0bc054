"""lm-eval's own command line with the model ``chatplan``: ``python -m chatplan.adapters.lm_eval run …``."""

from __future__ import annotations

from lm_eval.__main__ import cli_evaluate  # type: ignore[import-untyped]

from chatplan.adapters.lm_eval.model import ChatLM

__all__ = ["ChatLM"]

if __name__ == "__main__":
    cli_evaluate()
