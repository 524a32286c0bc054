"""A job on disk: finished batches beside the output, so that a killed job goes on where it was.

Each batch becomes a file of its own under a name that says which one it is. The file takes its name when all of it is
there, so there are no halves to clean up; the output is these files, one after another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import zip_longest
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from chatplan.adapters.batch.lines import InputFile, Line, read_lines
from chatplan.adapters.batch.options import Options
from chatplan.errors import RequestError

__all__ = ["Job"]

_PATIENCE = 10.0  # seconds; workers of a launcher that was killed notice and leave
_LOCK, _STATE, _WHOLE, _DONE = "lock", "job.json", "output", ".jsonl"


class Job:
    """Answers from ``source`` to ``output``; the work is kept in the folder ``<output>.work`` until it is done.

    Args:
        input: what :func:`check_file` found in ``source``.
    """

    def __init__(self, source: Path, output: Path, input: InputFile, options: Options) -> None:
        output = output.resolve()  # a link stays one
        self.source: Path = source
        self.output: Path = output
        self.input: InputFile = input
        self.options: Options = options
        self.folder: Path = output.with_name(f"{output.name}.work")
        self.batches: int = -(-input.requests // options.settings.batch_size)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """This job's alone, among all processes.

        Raises:
            RequestError: another program works on the same output, or the folder cannot be made.
        """
        try:
            self.folder.mkdir(exist_ok=True)
            lock = FileLock(self.folder / _LOCK)
            lock.acquire(timeout=_PATIENCE)
        except Timeout:
            raise RequestError("another program is writing it", param=str(self.output)) from None
        except OSError as error:
            raise RequestError(f"cannot be written: {error.strerror or error}", param=str(self.output)) from None
        try:
            yield
        finally:
            lock.release()

    def open(self, restart: bool = False) -> bool:
        """Begin, or go on; false when the output is complete already.

        Raises:
            RequestError: the output, or the work, is that of another job.
        """
        if not restart and self.is_open and self._goes_on():
            return True
        if not restart and self.output.exists():
            self._check_complete()
            self._remove()
            return False
        self._clear()
        self._write(_STATE, json.dumps(self._state()))
        return True

    @property
    def is_open(self) -> bool:
        """Whether there is work to do, or at least to put together."""
        return (self.folder / _STATE).exists()

    @property
    def created(self) -> int:
        """The time that answers bear, in seconds since 1970."""
        return int(self._read_state()["created"])

    def done(self) -> set[int]:
        """The batches that are finished, by number from 0."""
        names = [name.partition(".")[0] for name in os.listdir(self.folder) if name.endswith(_DONE)]
        return {int(name) for name in names if name.isdigit()}

    def save(self, batch: int, lines: Sequence[str]) -> None:
        """Keep a finished batch; from here on it is not done again."""
        self._write(_name(batch), "".join(lines))

    def finish(self, look: Callable[[int, bytes], None]) -> None:
        """Put the output together; ``look`` is shown each line, with the number of its batch."""
        whole = self.folder / _WHOLE
        with whole.open("wb") as file:
            for batch in range(self.batches):
                with (self.folder / _name(batch)).open("rb") as part:
                    for line in part:
                        look(batch, line)
                        file.write(line)
            _to_disk(file)
        os.replace(whole, self.output)
        (self.folder / _STATE).unlink()
        self._remove()

    def _state(self) -> dict[str, Any]:
        return {"input": self.input.sha256, "created": self.input.modified, "options": self.options.to_dict()}

    def _read_state(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / _STATE).read_text("utf-8"))
            return {name: state[name] for name in ("input", "created", "options")}
        except (OSError, ValueError, KeyError, TypeError):
            raise self._other("by something else") from None

    def _goes_on(self) -> bool:
        """Whether it is this job; another one that has done nothing yet, for a mistake in its options, gives way."""
        try:
            self._check_same()
        except RequestError:
            if self.done():
                raise
            return False
        return True

    def _check_same(self) -> None:
        begun, wanted = self._read_state(), self._state()
        if begun["input"] != wanted["input"]:
            raise self._other("with another input file")
        old, new = ({**state["options"], **state["options"]["settings"]} for state in (begun, wanted))
        for name in sorted({*old, *new} - {"settings"}):
            if old.get(name) != new.get(name):
                raise self._other(f"with {name}={json.dumps(old.get(name))}, and this is {json.dumps(new.get(name))}")

    def _other(self, how: str) -> RequestError:
        return RequestError(f"was begun {how}; --restart begins anew", param=str(self.output), code="another_job")

    def _check_complete(self) -> None:
        """Ids are made of the question, so they tell whether answers are those to the questions asked now."""
        with self.output.open("rb") as answers:
            for line, answer in zip_longest(read_lines(self.source), answers):
                if line is None or answer is None or not answer.startswith(self._begin(line)):
                    raise RequestError(
                        "exists, and does not hold the answers to this; --restart replaces it",
                        param=str(self.output),
                        code="another_job",
                    )

    def _begin(self, line: Line) -> bytes:
        return f'{{"id": "{self.options.line_id(line)}", '.encode()

    def _clear(self) -> None:
        for path in self.folder.iterdir():
            if path.name in (_STATE, _WHOLE) or path.suffix in (_DONE, ".tmp"):
                path.unlink()

    def _remove(self) -> None:
        """The folder too, unless somebody keeps other things there."""
        self._clear()
        with suppress(OSError):
            (self.folder / _LOCK).unlink(missing_ok=True)
            self.folder.rmdir()

    def _write(self, name: str, text: str) -> None:
        """All or nothing, also when the machine goes down."""
        path = self.folder / f"{name}.{os.getpid()}.tmp"
        with path.open("wb") as file:
            file.write(text.encode())
            _to_disk(file)
        os.replace(path, self.folder / name)


def _name(batch: int) -> str:
    return f"{batch:09d}{_DONE}"


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
