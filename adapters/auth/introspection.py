"""Opaque access tokens: the server that issued them is asked (RFC 7662)."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from typing import Any
from urllib.parse import quote_plus

import httpx
from cachetools import TLRUCache
from joserfc.errors import JoseError
from joserfc.jwt import JWTClaimsRegistry

from chatplan.adapters.auth.credentials import read_credential, read_json, refusal, unreachable
from chatplan.adapters.auth.scopes import principal_of
from chatplan.adapters.auth.settings import AuthSettings
from chatplan.hookspecs import hookimpl
from chatplan.principal import Principal

__all__ = ["Introspection"]

log: logging.Logger = logging.getLogger("chatplan.auth")

Claims = dict[str, Any]
_KEPT = 4096


class Introspection:
    """Asks the introspection endpoint for every Bearer token that no other plugin took for its own."""

    name = "introspection"

    def __init__(self, settings: AuthSettings, client: httpx.Client) -> None:
        assert settings.introspection_client_id is not None
        assert settings.introspection_client_secret is not None
        self._settings, self._client = settings, client
        # RFC 6749, section 2.3.1: both are encoded as in a form.
        secret = settings.introspection_client_secret.get_secret_value()
        self._auth = httpx.BasicAuth(quote_plus(settings.introspection_client_id), quote_plus(secret))
        self._rules = _rules(settings)
        self._lock = threading.Lock()
        self._answers: TLRUCache[bytes, Claims] = TLRUCache(_KEPT, self._forget_at, timer=time.time)

    @hookimpl(trylast=True)
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        credential = read_credential(headers)
        if credential is None or credential.header != "authorization" or not credential.value:
            return None
        claims = self._claims(credential.value)
        if claims.get("active") is not True:
            raise refusal("opaque token: not active")
        try:
            self._rules.validate(claims)
            return principal_of(claims, self._settings)
        except (JoseError, ValueError) as error:
            raise refusal("opaque token: %s %s", type(error).__name__, getattr(error, "claim", "")) from None

    def _claims(self, token: str) -> Claims:
        """What the endpoint says of a token, now or a short time ago."""
        digest = sha256(token.encode()).digest()
        with self._lock:
            known = self._answers.get(digest)
        if known is None:
            known = self._ask(token)
            with self._lock:
                self._answers[digest] = known
        return known

    def _ask(self, token: str) -> Claims:
        form = {"token": token, "token_type_hint": "access_token"}
        try:
            response = self._client.post(str(self._settings.introspection_url), data=form, auth=self._auth)
            claims = read_json(response.raise_for_status().content)
        except (httpx.HTTPError, ValueError) as error:
            log.warning("the introspection endpoint fails: %s", _kind(error))
            raise unreachable("the issuer of tokens", 5.0) from None
        return claims if isinstance(claims, dict) else {}

    def _forget_at(self, _: bytes, claims: Claims, now: float) -> float:
        later = now + self._settings.introspection_cache_seconds
        expires = claims.get("exp")
        return min(later, expires) if isinstance(expires, (int, float)) else later


def _kind(error: Exception) -> str:
    """The kind of error only: what a server answers may quote the token."""
    status = f" {error.response.status_code}" if isinstance(error, httpx.HTTPStatusError) else ""
    return type(error).__name__ + status


def _rules(settings: AuthSettings) -> JWTClaimsRegistry:
    wanted: dict[str, Any] = {}
    if settings.jwt_issuer is not None:
        wanted["iss"] = {"value": settings.jwt_issuer}
    if settings.jwt_audience is not None:
        wanted["aud"] = {"essential": True, "value": settings.jwt_audience}
    return JWTClaimsRegistry(leeway=settings.jwt_leeway_seconds, **wanted)
