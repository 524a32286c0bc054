"""The format of batch files: one JSON object a line, as OpenAI's batch endpoint reads and writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from chatplan.errors import RequestError

__all__ = ["InputFile", "Line", "check_file", "output_line", "read_batches", "read_lines"]

_SHOWN = 20


class _Entry(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True)

    custom_id: Annotated[str, Field(min_length=1)]
    method: Literal["POST"]
    url: Literal["/v1/chat/completions"]
    body: dict[str, Any]


@dataclass(frozen=True)
class Line:
    """One request of the file, as it is written there; ``number`` counts from 1."""

    number: int
    raw: bytes

    @property
    def entry(self) -> _Entry:
        """Raises :class:`ValueError`, which says in one line what is wrong."""
        try:
            return _Entry.model_validate(from_json(self.raw, allow_inf_nan=False))
        except ValidationError as error:
            raise ValueError("; ".join(_reason(item) for item in error.errors())) from None
        except ValueError as error:
            raise ValueError(f"is not JSON: {error}") from None

    def derive(self, what: str) -> str:
        """32 hex digits that are this line's own, always the same for the same ``what``."""
        return hashlib.sha256(what.encode() + b"\0" + self.raw).hexdigest()[:32]


class InputFile(NamedTuple):
    """What is known of a file that was read to its end: its requests, the SHA-256 of its bytes, its age.

    ``modified`` is in seconds since 1970.
    """

    requests: int
    sha256: str
    modified: int


def read_lines(path: Path) -> Iterator[Line]:
    """The lines that are not blank, one at a time."""
    with path.open("rb") as file:
        for number, given in enumerate(file, 1):
            raw = given.removeprefix(b"\xef\xbb\xbf") if number == 1 else given  # editors put this mark in front
            if raw.strip():
                yield Line(number, raw.strip())


def read_batches(path: Path, size: int) -> Iterator[list[Line]]:
    """The requests in groups of ``size``; only the last one may be smaller."""
    lines = read_lines(path)
    while batch := list(islice(lines, size)):
        yield batch


def check_file(path: Path) -> InputFile:
    """Read all of the file, and keep none of it.

    Raises:
        RequestError: it cannot be read, has no requests, or has lines that are none; each is named by its number.
    """
    if path.exists() and not path.is_file():
        raise RequestError("is no file that can be read more than once", param=str(path))
    try:
        problems = list(islice(_problems(path), _SHOWN + 1))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
        requests, modified = sum(1 for _ in read_lines(path)), int(path.stat().st_mtime)
    except OSError as error:
        raise RequestError(f"cannot be read: {error.strerror or error}", param=str(path)) from None
    if problems:
        more = ["and more"] if len(problems) > _SHOWN else []
        raise RequestError("; ".join([*problems[:_SHOWN], *more]), param=str(path), code="invalid_batch_file")
    if not requests:
        raise RequestError("has no requests", param=str(path), code="invalid_batch_file")
    return InputFile(requests, digest.hexdigest(), modified)


def _problems(path: Path) -> Iterator[str]:
    seen: dict[str, int] = {}
    for line in read_lines(path):
        try:
            name = line.entry.custom_id
        except ValueError as error:
            yield f"line {line.number}: {error}"
            continue
        first = seen.setdefault(name, line.number)
        if first != line.number:
            yield f"line {line.number}: custom_id {name!r} is that of line {first}"


def _digest(file: Any) -> Any:
    """``hashlib.file_digest``, which came with Python 3.11."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest


def _reason(item: Any) -> str:
    where = ".".join(str(step) for step in item["loc"])
    return f"{where}: {item['msg']}" if where else f"is no request: {item['msg']}"


def output_line(line: Line, line_id: str, request_id: str, status: int, body: Mapping[str, Any]) -> str:
    """The answer to a line, or its refusal with the ``status`` that a server would give."""
    response = {"status_code": status, "request_id": request_id, "body": body}
    # In ASCII, since what counts as the end of a line is not the same everywhere.
    return json.dumps({"id": line_id, "custom_id": line.entry.custom_id, "response": response, "error": None}) + "\n"
