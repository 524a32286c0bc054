"""Settings of who may ask."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, model_validator

__all__ = ["ASYMMETRIC", "AuthSettings", "secure_url"]

ASYMMETRIC = tuple("RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519 Ed448".split())
"""The signature algorithms that may be allowed: all verify with a public key."""


def secure_url(url: str) -> str:
    """``url`` if it is https, or http on this machine.

    Raises:
        ValueError: it is neither, so that what is fetched could be replaced on the way.
    """
    parts = urlsplit(url)
    if parts.hostname and (parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname))):
        return url
    raise ValueError(f"should be an https URL, or http on the loopback interface, got {url!r}")


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _asymmetric(names: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [name for name in names if name not in ASYMMETRIC]
    if wrong or not names:
        raise ValueError(f"should be some of {', '.join(ASYMMETRIC)}, got {', '.join(wrong) or 'none'}")
    return names


Url = Annotated[str, AfterValidator(secure_url)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class AuthSettings(BaseModel):
    """Who may ask. Nothing set up means that nobody is asked for a credential."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True)

    keys_file: Path | None = Field(
        default=None, description="File with the hashes of API keys, as `chatplan keys` writes it."
    )
    jwt_issuer: Url | None = Field(
        default=None, description="Issuer of access tokens, exactly as in their claim `iss`."
    )
    jwt_audience: str | None = Field(
        default=None,
        min_length=1,
        description="This server's name in the claim `aud` of tokens; needed with an issuer.",
    )
    jwks_url: Url | None = Field(
        default=None, description="Where the issuer publishes its keys; found through its metadata when left out."
    )
    jwt_algorithms: Annotated[tuple[str, ...], AfterValidator(_asymmetric)] = Field(
        default=("RS256", "ES256", "PS256", "EdDSA"),
        description="Signature algorithms that are accepted; asymmetric only.",
    )
    jwt_leeway_seconds: int = Field(
        default=30, ge=0, le=300, description="How far the clocks of issuer and server may differ."
    )
    jwks_cache_seconds: Seconds = Field(default=300, description="How long the issuer's keys are kept.")
    jwks_stale_seconds: Seconds = Field(
        default=3600, description="How long they are kept beyond that while the issuer cannot be reached."
    )
    jwks_refetch_seconds: Seconds = Field(
        default=10, description="Least time between two fetches of the keys, whatever key ids tokens name."
    )
    introspection_url: Url | None = Field(
        default=None, description="RFC 7662 endpoint that says whether a token is active."
    )
    introspection_client_id: str | None = Field(default=None, description="This server's client id at that endpoint.")
    introspection_client_secret: SecretStr | None = Field(
        default=None, description="This server's client secret there."
    )
    introspection_cache_seconds: Seconds = Field(
        default=30, description="How long an answer is kept; a revoked token works that much longer."
    )
    timeout_seconds: float = Field(default=5, gt=0, description="The most time to wait for an issuer's server.")
    required_scope: str | None = Field(
        default=None, description="A scope that every token must have, beside any others."
    )
    max_priority: int | None = Field(
        default=None, description="Most urgent (lowest) priority of token holders whose scopes do not say."
    )
    requests_per_minute: Count | None = Field(
        default=None, description="Rate of token holders whose scopes do not say."
    )
    tokens_per_minute: Count | None = Field(
        default=None, description="Rate of prompt and answer tokens of token holders whose scopes do not say."
    )
    concurrency: Count | None = Field(
        default=None, description="Requests at once of token holders whose scopes do not say."
    )

    @property
    def configured(self) -> bool:
        """Whether any way to prove who asks is set up."""
        return any((self.keys_file, self.jwt_issuer, self.introspection_url))

    @model_validator(mode="after")
    def _complete(self) -> AuthSettings:
        if self.jwt_issuer is not None and self.jwt_audience is None:
            raise ValueError("jwt_issuer needs jwt_audience: a token for another server is no credential here")
        if self.jwks_url is not None and self.jwt_issuer is None:
            raise ValueError("jwks_url needs jwt_issuer")
        introspection = (self.introspection_url, self.introspection_client_id, self.introspection_client_secret)
        if any(introspection) and not all(introspection):
            raise ValueError("introspection_url, introspection_client_id and introspection_client_secret go together")
        return self
