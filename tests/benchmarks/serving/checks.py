"""What the programs that drive a client library share. It runs in the libraries' own environments: stdlib alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["CITY", "MESSAGES", "SCHEMA", "TOOL", "run"]

MESSAGES: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
CITY: dict[str, Any] = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
SCHEMA: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}}
TOOL: Any = {"type": "function", "function": {"name": "weather", "description": "The weather.", "parameters": CITY}}


def run(checks: Mapping[str, Callable[[], str]]) -> None:
    """Print a line for each check and exit with 1 when one failed. A check returns what it saw, or raises."""
    failed = False
    for name, check in checks.items():
        try:
            verdict, seen = "ok", check()
        except Exception as error:
            verdict, seen, failed = "FAILED", f"{type(error).__name__}: {error}", True
        print(f"{name}\t{verdict}\t{' '.join(seen.split())[:150]}", flush=True)
    sys.exit(failed)
