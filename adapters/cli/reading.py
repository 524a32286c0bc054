"""Files that a command is given."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from chatplan.errors import RequestError

__all__ = ["parse_json", "read_json", "read_text"]


def read_text(path: Path) -> str:
    """All of a file; ``-`` is standard input.

    Raises:
        RequestError: it cannot be read, or is no text.
    """
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"cannot be read: {reason}", param=str(path)) from error


def read_json(path: Path) -> Any:
    """The JSON in a file; ``-`` is standard input.

    Raises:
        RequestError: it cannot be read, or is no JSON.
    """
    return parse_json(path, read_text(path))


def parse_json(path: Path, text: str) -> Any:
    """The JSON in ``text``, which is that of ``path``.

    Raises:
        RequestError: it is no JSON, or nested more deeply than Python reads.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise RequestError(f"is not JSON: {error}", param=str(path)) from error
    except RecursionError:
        raise RequestError("is nested too deeply", param=str(path)) from None
