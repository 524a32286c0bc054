"""API keys: a file of records with hashes, never the keys themselves."""

from __future__ import annotations

import hmac
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from hashlib import sha256
from pathlib import Path
from tempfile import mkstemp
from typing import Annotated, ClassVar

from filelock import FileLock
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

__all__ = ["PREFIX", "KeyRecord", "KeyStore", "Limits"]

log: logging.Logger = logging.getLogger("chatplan.auth")

PREFIX = "cp-"
_KEY = re.compile(rf"{PREFIX}([0-9a-f]{{12}})-[A-Za-z0-9_-]{{43}}")
_NO_HASH = "0" * 64
_LOCK_SECONDS = 10.0

Count = Annotated[int, Field(ge=1)]


class Limits(BaseModel):
    """What a key allows; ``None`` is no limit. The names are those of :class:`~chatplan.Principal`."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    models: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    max_priority: int | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    concurrency: Count | None = None


class KeyRecord(Limits):
    """What is kept of a key. Times are in UTC; ``sha256`` is the hash of the whole key, in hexadecimal."""

    id: str = Field(pattern=r"^[0-9a-f]{12}$")
    name: str = Field(min_length=1, max_length=100)
    created: AwareDatetime
    expires: AwareDatetime | None = None
    revoked: AwareDatetime | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)

    @property
    def state(self) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now() else "valid"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")
    keys: list[KeyRecord] = []


class KeyStore:
    """The keys in a file. A change of the file, by whomever, is seen at the next question. Safe to use from threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._seen: object = None
        self._records: dict[str, KeyRecord] = {}

    def records(self) -> list[KeyRecord]:
        """All records, in the order they were made.

        Raises:
            ValueError: the file cannot be read, or holds something else.
        """
        return _read(self.path).keys

    def load(self) -> None:
        """Read the file now, so that one that is missing or wrong is found out at the start.

        Raises:
            ValueError: as :meth:`records`.
        """
        self._seen = self._signature()
        self._records = {record.id: record for record in self.records()}
        if os.name == "posix" and self.path.stat().st_mode & 0o077:
            log.warning("%s can be opened by others than its owner; chmod 600 it", self.path)

    def find(self, key: str) -> KeyRecord | None:
        """The record of a key, revoked and expired ones included; ``None`` if there is no such key."""
        self._reload()
        match = _KEY.fullmatch(key)
        record = self._records.get(match.group(1)) if match else None
        # An unknown id takes as long as a wrong secret.
        same = hmac.compare_digest(_hash(key), record.sha256 if record else _NO_HASH)
        return record if same else None

    def create(self, name: str, limits: Limits, expires: datetime | None = None) -> tuple[KeyRecord, str]:
        """Make a key and save its record; the key is returned here and never again.

        Raises:
            ValueError: the name is not printable, the file is wrong, or another process keeps it locked.
        """
        if not name.isprintable():
            raise ValueError("the name has characters that cannot be printed")
        key_id = secrets.token_hex(6)
        key = f"{PREFIX}{key_id}-{secrets.token_urlsafe(32)}"
        record = KeyRecord(
            id=key_id, name=name, created=now(), expires=expires, sha256=_hash(key), **limits.model_dump()
        )
        self._change(lambda records: [*records, record])
        return record, key

    def revoke(self, key_id: str) -> KeyRecord:
        """Make a key invalid from now on; a key that was revoked before stays as it is.

        Raises:
            ValueError: there is no such key, or as :meth:`create`.
        """

        def revoked(record: KeyRecord) -> KeyRecord:
            if record.id != key_id or record.revoked:
                return record
            return record.model_copy(update={"revoked": now()})

        records = self._change(lambda records: [revoked(record) for record in records])
        found = next((record for record in records if record.id == key_id), None)
        if found is None:
            raise ValueError("there is no key of that id")
        return found

    def _reload(self) -> None:
        """Heed a change of the file; a file that cannot be read leaves the keys as they were."""
        if self._signature() == self._seen:
            return
        with self._lock:
            if self._signature() == self._seen:
                return
            try:
                self.load()
            except ValueError as error:
                log.error("the keys stay as they were: %s", error)

    def _signature(self) -> object:
        try:
            stat = self.path.stat()
        except OSError as error:
            return error.errno
        return (stat.st_mtime_ns, stat.st_size, stat.st_ino)

    def _change(self, change: Callable[[list[KeyRecord]], list[KeyRecord]]) -> list[KeyRecord]:
        path = self.path.resolve()
        try:
            with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS, mode=0o600):
                records = change(_read(path).keys if path.exists() else [])
                _write(path, _File(keys=records))
        except OSError as error:  # a lock that is not to be had is one, too
            raise ValueError(f"{self.path} cannot be changed: {error}") from error
        return records


def now() -> datetime:
    """The time in UTC, to the second."""
    return datetime.now(timezone.utc).replace(microsecond=0)


def _hash(key: str) -> str:
    # A key has 256 random bits, so a slow hash would protect nothing more.
    return sha256(key.encode()).hexdigest()


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError:  # its text would show what is in the file
        raise ValueError(f"{path} is no file of keys as `chatplan keys create` makes one") from None


def _write(path: Path, content: _File) -> None:
    """Replace the file in one step; readable by its owner only, as mkstemp makes it."""
    handle, temporary = mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(content.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
