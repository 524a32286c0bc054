"""Who may ask: API keys, JSON web tokens, opaque tokens, and their quotas."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chatplan.adapters.auth.challenges import challenge
from chatplan.errors import AuthenticationError, PluginError
from chatplan.principal import Principal

if TYPE_CHECKING:
    from chatplan.adapters.auth.settings import AuthSettings
    from chatplan.manager import Plugins

__all__ = ["authenticators", "challenge", "identify"]


def authenticators(settings: AuthSettings) -> list[object]:
    """Plugins with the hook ``authenticate``, one for each kind of credential that ``settings`` sets up.

    Raises:
        ValueError: the keys file cannot be read.
    """
    import httpx

    from chatplan.adapters.auth.access_tokens import AccessTokens
    from chatplan.adapters.auth.api_keys import ApiKeys
    from chatplan.adapters.auth.credentials import Unclaimed
    from chatplan.adapters.auth.introspection import Introspection

    plugins: list[object] = []
    client = httpx.Client(timeout=settings.timeout_seconds)
    if settings.keys_file is not None:
        plugins.append(ApiKeys(settings.keys_file))
    if settings.jwt_issuer is not None:
        plugins.append(AccessTokens(settings, client))
    if settings.introspection_url is not None:
        plugins.append(Introspection(settings, client))
    if plugins:
        plugins.append(Unclaimed())
    return plugins


def identify(plugins: Plugins, headers: Mapping[str, str]) -> Principal:
    """Who sends a request with ``headers`` (lower-case names), as the plugins' hook ``authenticate`` says. May block.

    Raises:
        AuthenticationError: no credential, or one that is not valid.
        PermissionDeniedError: the credential lacks the scope that everybody needs.
        OverloadedError: the server that could tell cannot be reached.
        PluginError: a plugin returned something else than a :class:`~chatplan.Principal`.
    """
    answer = plugins.ask_first("authenticate", headers=headers)
    if answer is None:
        raise AuthenticationError("no credential", code="missing_credentials")
    plugin, principal = answer
    if not isinstance(principal, Principal):
        raise PluginError(f"plugin {plugin!r}: authenticate returned {type(principal).__name__}, not a Principal")
    return principal
