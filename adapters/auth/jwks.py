"""An issuer's public keys, fetched when they are needed and kept for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from math import inf
from typing import Any
from urllib.parse import urlsplit

import httpx
from joserfc.jwk import JWKRegistry, Key, OctKey

from chatplan.adapters.auth.credentials import unreachable
from chatplan.adapters.auth.settings import AuthSettings, secure_url

__all__ = ["IssuerKeys"]

log: logging.Logger = logging.getLogger("chatplan.auth")


class IssuerKeys:
    """The keys of the issuer in ``settings``. Safe to use from several threads."""

    def __init__(self, settings: AuthSettings, client: httpx.Client) -> None:
        self._settings, self._client = settings, client
        self._lock = threading.Lock()
        self._keys: tuple[Key, ...] = ()
        self._fetched = self._tried = -inf
        self._failed = False

    def find(self, kid: str | None) -> list[Key]:
        """The keys of that id, all keys if it is ``None``; an unknown id makes the keys be fetched again.

        Raises:
            OverloadedError: the issuer cannot be reached, and it is not known whether it has such a key.
        """
        self._renew()
        found = self._named(kid)
        if not found:
            with self._lock:
                self._fetch()
            found = self._named(kid)
        if not found and self._failed:
            raise self._unreachable()
        return found

    def _named(self, kid: str | None) -> list[Key]:
        return [key for key in self._keys if kid is None or key.kid == kid]

    def _renew(self) -> None:
        age = self._age()
        if age < self._settings.jwks_cache_seconds:
            return
        # One thread fetches while the others go on with the old keys; without any, all wait for it.
        if self._lock.acquire(blocking=not self._usable(age)):
            try:
                if self._age() >= self._settings.jwks_cache_seconds:
                    self._fetch()
            finally:
                self._lock.release()
        if not self._usable(self._age()):
            raise self._unreachable()

    def _age(self) -> float:
        return time.monotonic() - self._fetched

    def _usable(self, age: float) -> bool:
        return age < self._settings.jwks_cache_seconds + self._settings.jwks_stale_seconds

    def _unreachable(self) -> Exception:
        return unreachable("the issuer of tokens", max(1.0, self._settings.jwks_refetch_seconds))

    def _fetch(self) -> None:
        """Fetch the keys, unless that was tried just now. What goes wrong is logged and leaves the old keys."""
        if time.monotonic() - self._tried < self._settings.jwks_refetch_seconds:
            return
        try:
            keys = read_keys(self._get(self._settings.jwks_url or self._discover()))
        except Exception as error:  # whatever an issuer may send
            self._failed = True
            log.warning("the keys of %s cannot be fetched: %s", self._settings.jwt_issuer, error)
        else:
            self._keys, self._fetched, self._failed = keys, time.monotonic(), False
        self._tried = time.monotonic()

    def _get(self, url: str) -> Any:
        return self._client.get(url).raise_for_status().json()

    def _discover(self) -> str:
        """The address of the keys, from the issuer's metadata."""
        issuer = self._settings.jwt_issuer or ""
        for url in metadata_urls(issuer):
            response = self._client.get(url)
            if response.status_code == httpx.codes.NOT_FOUND:
                continue
            metadata = response.raise_for_status().json()
            if metadata["issuer"] != issuer:
                raise ValueError(f"{url} is the metadata of another issuer")
            return secure_url(metadata["jwks_uri"])
        raise ValueError("the issuer publishes no metadata; set jwks_url")


def metadata_urls(issuer: str) -> Iterator[str]:
    """Where an issuer's metadata may be: OpenID Connect Discovery, then RFC 8414."""
    yield issuer.rstrip("/") + "/.well-known/openid-configuration"
    parts = urlsplit(issuer)
    yield f"{parts.scheme}://{parts.netloc}/.well-known/oauth-authorization-server{parts.path.rstrip('/')}"


def read_keys(document: Any) -> tuple[Key, ...]:
    """The public keys of a JSON web key set; keys of unknown kinds are left out (RFC 7517, section 5)."""
    keys = []
    for data in document["keys"]:
        try:
            key = JWKRegistry.import_key(data)
        except Exception as error:
            log.info("a key of the issuer is left out: %s", type(error).__name__)
            continue
        if not isinstance(key, OctKey):
            keys.append(key)
    if not keys:
        raise ValueError("no usable key")
    return tuple(keys)
