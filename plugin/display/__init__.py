"""Completions, plans and explanations as notebooks show them: self-contained HTML in which all text is escaped."""

from __future__ import annotations

from chatplan.display.tokens import Alternative, Token
from chatplan.display.view import LogprobsView

__all__ = ["Alternative", "LogprobsView", "Token"]
