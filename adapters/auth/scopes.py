"""What a token's scopes allow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from chatplan.adapters.auth.settings import AuthSettings
from chatplan.errors import PermissionDeniedError
from chatplan.principal import Principal

__all__ = ["principal_of"]

NUMBERS = {
    "priority": "max_priority",
    "rpm": "requests_per_minute",
    "tpm": "tokens_per_minute",
    "concurrency": "concurrency",
}
"""The scopes ``chatplan:KIND:NUMBER``, and the attribute of a principal that each sets."""


def principal_of(claims: Mapping[str, Any], settings: AuthSettings) -> Principal:
    """Who holds a token with these claims, which have been checked.

    Raises:
        ValueError: the claims name nobody, or a scope that begins with ``chatplan:`` is not one of ours. A misspelt
            restriction must not be none.
        PermissionDeniedError: the scope that everybody needs is not there.
    """
    scopes = scopes_of(claims)
    if settings.required_scope is not None and settings.required_scope not in scopes:
        message = f"the credential lacks the scope {settings.required_scope}"
        raise PermissionDeniedError(message, code="insufficient_scope")
    models, limits = _read(scope.removeprefix("chatplan:") for scope in scopes if scope.startswith("chatplan:"))
    defaults = {name: getattr(settings, name) for name in NUMBERS.values()}
    return Principal(name=_name(claims), models=frozenset(models) or None, **{**defaults, **limits})


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes in the claims ``scope`` (RFC 8693) and ``scp`` (as some issuers call it), strings or lists."""
    scopes: set[str] = set()
    for name in ("scope", "scp"):
        value = claims.get(name) or []
        parts = value.split() if isinstance(value, str) else value
        if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"the claim {name} is neither a string nor a list of strings")
        scopes.update(parts)
    return frozenset(scopes)


def _read(scopes: Any) -> tuple[set[str], dict[str, int]]:
    models: set[str] = set()
    limits: dict[str, int] = {}
    for scope in scopes:
        kind, _, value = scope.partition(":")
        if kind == "model" and value:
            models.add(value)
        elif kind in NUMBERS and NUMBERS[kind] not in limits:
            limits[NUMBERS[kind]] = _number(kind, value)
        else:
            raise ValueError("a scope is misspelt, or there twice with two values")
    return models, limits


def _number(kind: str, value: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}" if kind == "priority" else r"0*[1-9][0-9]{0,8}", value):
        raise ValueError(f"the scope {kind} has no usable number")
    return int(value)


def _name(claims: Mapping[str, Any]) -> str:
    for claim, kind in (("sub", "sub"), ("client_id", "client")):
        value = claims.get(claim)
        if isinstance(value, str) and value:
            return f"{kind}:{value}"
    raise ValueError("neither sub nor client_id says who holds the token")
