"""JSON web tokens: OAuth2 access tokens (RFC 9068) as Bearer, and any token of the issuer in the header ``token``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwa import JWSAlgModel
from joserfc.jwk import Key
from joserfc.jwt import JWTClaimsRegistry

from chatplan.adapters.auth.credentials import read_credential, read_json, refusal
from chatplan.adapters.auth.jwks import IssuerKeys
from chatplan.adapters.auth.scopes import principal_of
from chatplan.adapters.auth.settings import AuthSettings
from chatplan.errors import ChatplanError
from chatplan.hookspecs import hookimpl
from chatplan.principal import Principal

__all__ = ["AccessTokens"]

REQUIRED: Mapping[str, tuple[str, ...]] = {
    "at+jwt": ("iss", "exp", "aud", "sub", "client_id", "iat", "jti"),
    "jwt": ("iss", "exp", "aud", "sub", "iat"),
}
"""The claims that each type of token must have; the first is RFC 9068's list."""


class _Registry(jws.JWSRegistry):
    """Exactly the algorithms of the settings, without a warning for those of them that joserfc finds old."""

    max_header_length = 8 * 1024  # some issuers send the chain of certificates

    def get_alg(self, name: str) -> JWSAlgModel:
        if name not in (self.allowed or ()):
            raise ValueError("the algorithm is not allowed")
        return self.algorithms[name]


class AccessTokens:
    """Verifies JSON web tokens by the keys that the issuer publishes; a key or address in a token is not looked at."""

    name = "access_tokens"

    def __init__(self, settings: AuthSettings, client: httpx.Client) -> None:
        self._settings = settings
        self._keys = IssuerKeys(settings, client)
        self._registry = _Registry(algorithms=settings.jwt_algorithms, strict_check_header=False)
        self._rules = {type_: _rules(names, settings) for type_, names in REQUIRED.items()}

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        credential = read_credential(headers)
        if credential is None or credential.header == "x-api-key":
            return None
        token = self._parse(credential.value)
        type_ = "" if token is None else _type(token)
        if credential.header == "authorization" and type_ != "at+jwt":
            return None
        if token is None or type_ not in REQUIRED:
            raise refusal("the header %s holds no token of a known type", credential.header)
        try:
            return principal_of(self._verified(token, self._rules[type_]), self._settings)
        except ChatplanError:
            raise
        except Exception as error:  # a token can be wrong in more ways than a list of exceptions has
            # Messages of errors may quote the token; the claim's name does not.
            raise refusal("token: %s %s", type(error).__name__, getattr(error, "claim", "")) from None

    def _parse(self, value: str) -> jws.CompactSignature | None:
        try:
            token = jws.extract_compact(value.encode(), registry=self._registry)
        except Exception:
            return None
        return token if isinstance(token.headers(), dict) else None

    def _verified(self, token: jws.CompactSignature, rules: JWTClaimsRegistry) -> dict[str, Any]:
        """The claims of a token, all of them checked."""
        header = token.headers()
        self._registry.check_header(header)
        if "crit" in header or "b64" in header:
            raise refusal("token: the header has extensions")
        algorithm = self._registry.get_alg(header["alg"])
        keys = [key for key in self._keys.find(header.get("kid")) if _fits(algorithm, key)]
        if not any(jws.validate_compact(token, key, registry=self._registry) for key in keys):
            raise refusal("token: none of %d keys of the issuer fits the signature", len(keys))
        claims = read_json(token.payload)
        if not isinstance(claims, dict):
            raise refusal("token: the claims are no object")
        rules.validate(claims)
        return claims


def _type(token: jws.CompactSignature) -> str:
    """The header ``typ`` as RFC 7515 compares it."""
    return str(token.headers().get("typ", "")).lower().removeprefix("application/")


def _fits(algorithm: JWSAlgModel, key: Key) -> bool:
    """Whether a key is of the algorithm's type and for this use, which a token cannot choose."""
    try:
        algorithm.check_key(key)
    except JoseError:
        return False
    return True


def _rules(required: tuple[str, ...], settings: AuthSettings) -> JWTClaimsRegistry:
    wanted: dict[str, Any] = {name: {"essential": True} for name in required}
    wanted["iss"]["value"] = settings.jwt_issuer
    wanted["aud"]["value"] = settings.jwt_audience
    return JWTClaimsRegistry(leeway=settings.jwt_leeway_seconds, **wanted)
