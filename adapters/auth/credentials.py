"""The one credential of a request, and how it is refused."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from chatplan.errors import AuthenticationError, OverloadedError
from chatplan.hookspecs import hookimpl
from chatplan.principal import Principal

__all__ = ["Credential", "Unclaimed", "read_credential", "read_json", "refusal", "unreachable"]

log: logging.Logger = logging.getLogger("chatplan.auth")

HEADERS = ("authorization", "x-api-key", "token")
"""Where a credential may stand. The first header that is present decides; the others are not looked at."""

_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)
_LONGEST = 16 * 1024


class Credential(NamedTuple):
    """What a header holds; ``value`` is "" if it cannot be a credential, as without the word Bearer."""

    header: str
    value: str

    def __repr__(self) -> str:
        return f"Credential(header={self.header!r})"


def read_credential(headers: Mapping[str, str]) -> Credential | None:
    """The credential of a request; ``headers`` has lower-case names."""
    header = next((name for name in HEADERS if name in headers), None)
    if header is None:
        return None
    value = headers[header].strip(" \t")
    if header == "authorization":
        bearer = _BEARER.fullmatch(value)
        value = bearer.group(1) if bearer else ""
    usable = len(value) <= _LONGEST and value.isascii() and value.isprintable()
    return Credential(header, value if usable else "")


def refusal(reason: str, *details: object) -> AuthenticationError:
    """The error for a credential that is not valid. ``reason`` goes to the log: nothing secret may be in it."""
    log.info("credential refused: " + reason, *details)
    return AuthenticationError("the credential is not valid")


def unreachable(what: str, seconds: float) -> OverloadedError:
    """The error when nobody can tell whether a credential is valid; ``seconds`` until it is worth another try."""
    return OverloadedError(f"{what} cannot be reached", code="authentication_unavailable", retry_after=seconds)


def read_json(text: bytes) -> Any:
    """JSON as it is defined, without Python's NaN: a token that expires at NaN never does.

    Raises:
        ValueError: it is something else.
    """

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Unclaimed:
    """Refuses a credential that no plugin took for its own, so that it is not mistaken for none."""

    name = "unclaimed_credentials"

    @hookimpl(trylast=True)
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        credential = read_credential(headers)
        if credential is not None:
            raise refusal("the header %s holds no credential of a known kind", credential.header)
        return None
