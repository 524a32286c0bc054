"""A chat whose answers a TGI server generates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from chatplan.adapters.tgi.clients import connect
from chatplan.adapters.tgi.engine import TGIEngine
from chatplan.adapters.tgi.parameters import Limits
from chatplan.chat import Chat
from chatplan.engine import Engine
from chatplan.errors import AuthenticationError, EngineError, OverloadedError, PluginError
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.settings import Settings

__all__ = ["tgi_chat"]

_SETTINGS = tuple(Settings.__dataclass_fields__)


def tgi_chat(
    url: str,
    tokenizer: str | None = None,
    *,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 600.0,
    retries: int = 3,
    client: str = "auto",
    served_model_name: str = "",
    plugins: Iterable[Any] = (),
    disable: Collection[str] = (),
    **fields: Any,
) -> Chat:
    """A chat on a running TGI server.

    Args:
        url: the server's address, such as ``http://127.0.0.1:8080``.
        tokenizer: name or folder of the checkpoint that the server runs, for its tokenizer, chat template and
            configuration; no weights load. ``None`` takes the name that the server states.
        api_key: sent as a bearer token.
        headers: sent with each request.
        timeout: the most seconds for one answer, with all tries.
        retries: further tries while the server is overloaded or away; none once a token came.
        client: ``text-generation`` (the extra ``tgi``), ``http``, or ``auto`` for the first that is installed.
        served_model_name, plugins, disable, fields: as for :func:`chatplan.pipeline`.

    Raises:
        OverloadedError: the server cannot be reached.
        AuthenticationError: it wants another credential.
        EngineError: there is no such client, or the server does not say what it runs and no ``tokenizer`` is given.
        OSError: there is no such checkpoint.
    """
    url, sent = root_of(url), sent_headers(api_key, headers)
    info = server_info(url, sent, min(timeout, 30.0))
    name = tokenizer or info.get("model_id")
    if not name:
        raise EngineError("the server does not say what it runs; pass tokenizer, the name or folder of its checkpoint")
    limits = limits_of(info)
    settings = settings_for(limits, {name: fields.pop(name) for name in _SETTINGS if name in fields})
    model = ModelInfo.without_weights(str(name), settings, served_model_name)
    door = _Door(TGIEngine(model, connect(client, url, sent, timeout), limits, timeout, retries))
    return Chat(model, plugins=[*plugins, door], disable=disable, engine="tgi", defaults=fields)


def root_of(url: str) -> str:
    """The address without the path of the chat route."""
    return url.rstrip("/").removesuffix("/v1")


def sent_headers(api_key: str | None, headers: Mapping[str, str] | None) -> dict[str, str]:
    """What goes with each request."""
    return {**(headers or {}), **({"Authorization": f"Bearer {api_key}"} if api_key else {})}


def server_info(url: str, headers: Mapping[str, str], timeout: float) -> Mapping[str, Any]:
    """The server's ``/info``; nothing where a proxy hides it.

    Raises:
        OverloadedError: the server cannot be reached.
        AuthenticationError: it wants another credential.
    """
    import httpx

    try:
        response = httpx.get(f"{url.rstrip('/')}/info", headers=dict(headers), timeout=timeout)
        if response.status_code in (401, 403):
            raise AuthenticationError("the TGI server wants another credential")
        found = response.json() if response.status_code == 200 else {}
    except httpx.TransportError as error:
        raise OverloadedError(
            f"the TGI server at {url} cannot be reached: {error}", code="upstream_unreachable"
        ) from error
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def limits_of(info: Mapping[str, Any]) -> Limits:
    """The limits that the server states, else TGI's defaults."""
    stated = {
        "best_of": info.get("max_best_of"),
        "stops": info.get("max_stop_sequences"),
        "tokens": info.get("max_total_tokens"),
        "inputs": info.get("max_input_tokens", info.get("max_input_length")),
    }
    return Limits(**{name: value for name, value in stated.items() if isinstance(value, int)})


def settings_for(limits: Limits, given: dict[str, Any]) -> Settings:
    """The server's context, and its kind of log-probabilities: of the distribution that it drew from."""
    if given.setdefault("logprobs_mode", "processed") != "processed":
        raise PluginError("logprobs_mode: a TGI server reports processed log-probabilities only")
    own = given.get("max_model_len")
    known = [length for length in (own, limits.tokens) if length is not None]
    return Settings(**{**given, "max_model_len": min(known) if known else None})


class _Door:
    """Gives the chat its engine."""

    name = "tgi"

    def __init__(self, engine: TGIEngine) -> None:
        self._engine = engine

    @hookimpl
    def engine(self, options: Mapping[str, Any]) -> Engine | None:
        return self._engine if options.get("engine") in ("auto", "tgi") else None
