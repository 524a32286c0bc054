"""API keys, as ``Authorization: Bearer`` or ``x-api-key``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from chatplan.adapters.auth.credentials import read_credential, refusal
from chatplan.adapters.auth.keys import PREFIX, KeyRecord, KeyStore, Limits
from chatplan.hookspecs import hookimpl
from chatplan.principal import Principal

__all__ = ["ApiKeys"]


class ApiKeys:
    """Knows the keys in a file.

    Raises:
        ValueError: the file cannot be read.
    """

    name = "api_keys"

    def __init__(self, path: Path) -> None:
        self._store = KeyStore(path)
        self._store.load()

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        credential = read_credential(headers)
        if credential is None or credential.header == "token" or not credential.value.startswith(PREFIX):
            return None
        record = self._store.find(credential.value)
        if record is None:
            raise refusal("API key: unknown")
        if record.state != "valid":
            raise refusal("API key %s: %s", record.id, record.state)
        return _principal(record)


def _principal(record: KeyRecord) -> Principal:
    limits = {name: getattr(record, name) for name in Limits.model_fields if name != "models"}
    models = None if record.models is None else frozenset(record.models)
    return Principal(name=f"key:{record.id}", models=models, **limits)
