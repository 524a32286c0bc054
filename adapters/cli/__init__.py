"""The command line ``chatplan``: one module for each command, and one place where errors become a line."""

from __future__ import annotations

from chatplan.adapters.cli.commands import app, main

__all__ = ["app", "main"]
