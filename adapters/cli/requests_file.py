"""Files of requests: one request, or one a line, in OpenAI's batch format or bare."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chatplan.adapters.cli.reading import parse_json
from chatplan.errors import RequestError

__all__ = ["batch_file", "is_lines", "one_request"]


def is_lines(path: Path, text: str) -> bool:
    """Whether it is a request a line: by its name, or on standard input by what is there."""
    if str(path) != "-":
        return path.suffix in (".jsonl", ".ndjson")
    first = text.lstrip().partition("\n")
    return bool(first[2].strip()) and _parsed(first[0]) is not None


def one_request(path: Path, text: str) -> dict[str, Any]:
    """The request in ``text``; a list is its messages.

    Raises:
        RequestError: it is no JSON, or no request.
    """
    data = parse_json(path, text)
    if isinstance(data, list):
        return {"messages": data}
    if not isinstance(data, dict):
        raise RequestError("should be a request: an object with messages", param=str(path))
    return data["body"] if isinstance(data.get("body"), dict) and "messages" not in data else data


@contextmanager
def batch_file(path: Path, text: str, fields: Mapping[str, Any]) -> Iterator[Path]:
    """The file in batch format, each request with ``fields``, of the same age, so that a job on it can be resumed."""
    with tempfile.TemporaryDirectory(prefix="chatplan-") as folder:
        made = Path(folder) / (path.name if str(path) != "-" else "stdin")
        made.write_text("".join(f"{_entry(at, line, fields)}\n" for at, line in enumerate(_lines(text), 1)), "utf-8")
        if str(path) != "-":
            os.utime(made, (path.stat().st_atime, path.stat().st_mtime))
        try:
            yield made
        except RequestError as error:  # the copy is nobody's concern
            if error.param == str(made):
                error.param = "standard input" if str(path) == "-" else str(path)
            raise


def _lines(text: str) -> Iterator[str]:
    # Not splitlines: JSON may hold other ends of lines as they are.
    yield from text.removeprefix("\ufeff").removesuffix("\n").split("\n")


def _entry(number: int, line: str, fields: Mapping[str, Any]) -> str:
    """A line that is no request stays as it is, and is refused with its number."""
    data = _parsed(line)
    if data is None:
        return line
    if "body" not in data:
        data = {"custom_id": f"line-{number}", "method": "POST", "url": "/v1/chat/completions", "body": data}
    elif not fields:
        return line
    if isinstance(data["body"], dict):
        data["body"] = {**data["body"], **fields}
    return json.dumps(data)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None
