"""A chat whose requests are answered by servers of the same protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from chatplan.adapters.background import LoopThread
from chatplan.adapters.remote.detect import Found, look_at
from chatplan.adapters.remote.rules import same
from chatplan.adapters.remote.runner import RemoteRunner
from chatplan.adapters.remote.server import Server
from chatplan.adapters.remote.tables import KINDS, Table, table_for
from chatplan.chat import Chat
from chatplan.engine import Runner
from chatplan.errors import ChatplanError, EngineError, PluginError, RequestError
from chatplan.hookspecs import hookimpl
from chatplan.manager import BUILTINS, Plugins
from chatplan.model import ModelInfo
from chatplan.settings import Settings

__all__ = ["remote_chat"]

_NO_LIMIT = 10**30
_SETTINGS = tuple(Settings.__dataclass_fields__)
_OBSERVERS = {"request_fields", "request_finished", "authenticate"}


def remote_chat(
    urls: str | Sequence[str],
    *,
    server: str = "auto",
    version: str | None = None,
    model: str | None = None,
    api_key: str | None = None,
    headers: Mapping[str, str] | None = None,
    timeout: float = 600.0,
    max_retries: int = 2,
    allow: Collection[str] = (),
    plugins: Iterable[Any] = (),
    disable: Collection[str] = (),
    **fields: Any,
) -> Chat:
    """A chat that forwards requests to one server, or to several of one kind with the same model.

    Args:
        urls: base URLs; ``http://host:8000`` is short for ``http://host:8000/v1``.
        server: ``chatplan``, ``vllm``, ``sglang``, ``llama.cpp``, ``tgi``, ``openai`` for others, or ``auto`` to ask.
        version: the server's; absent, it is asked for.
        model: the name to ask for; absent, the first one that the server lists.
        api_key: sent as a bearer token; nothing is taken from the environment.
        headers: sent with each request.
        timeout: the most seconds for one answer, with all tries.
        max_retries: further tries while servers are away or overloaded; none once a part of the answer came.
        allow: fields to send as they are, although the table of such servers refuses them.
        plugins, disable, fields: as for :func:`chatplan.pipeline`. A plugin whose work is done while a model generates
            has no place here.

    Raises:
        OverloadedError: no server can be reached.
        AuthenticationError: the credential is not taken.
        EngineError: the servers are of different kinds, or do not say what they serve.
        PluginError: a plugin's work would be lost.
        ValueError: there is no such kind of server, or no URL.
    """
    if server not in ("auto", *KINDS):
        raise ValueError(f"server: {server!r} is none of auto, {', '.join(KINDS)}")
    addresses = [urls] if isinstance(urls, str) else list(urls)
    if not addresses:
        raise ValueError("urls: at least one address is needed")
    thread = LoopThread("chatplan-remote")
    servers = [Server(url, api_key, headers or {}, timeout) for url in addresses]
    try:
        found = _known(server, version, model) or _ask(servers, server, thread)
        found = replace(found, version=version or found.version, model=model or found.model)
        table = _with(table_for(found.kind, found.version, found.about), allow)
        runner = RemoteRunner(servers, table, timeout, max_retries, thread)
        return _chat(runner, found, plugins, disable, fields)
    except BaseException:
        thread.close()
        raise


def _known(kind: str, version: str | None, model: str | None) -> Found | None:
    """What needs not be asked for."""
    versioned = kind in ("vllm", "sglang", "llama.cpp")
    if kind == "auto" or model is None or (versioned and version is None):
        return None
    return Found(kind, version, model)


def _ask(servers: Sequence[Server], kind: str, thread: LoopThread) -> Found:
    """What the servers that can be reached agree on."""

    async def ask_all() -> list[Found | BaseException]:
        return await asyncio.gather(*(look_at(server, kind) for server in servers), return_exceptions=True)

    answers = thread.submit(ask_all()).result()
    found = [answer for answer in answers if isinstance(answer, Found)]
    if not found:
        raise cast(BaseException, answers[0])
    refused = [each for each in answers if isinstance(each, ChatplanError) and each.status in (401, 403)]
    if refused:
        raise refused[0]
    for other in found[1:]:
        if (other.kind, other.version) != (found[0].kind, found[0].version):
            what = [f"{each.kind} {each.version or ''}".strip() for each in (found[0], other)]
            raise EngineError(f"all servers must be of one kind and version, these are {' and '.join(what)}")
    return found[0]


def _with(table: Table, allow: Collection[str]) -> Table:
    return replace(table, rules={**table.rules, **dict.fromkeys(allow, same)}) if allow else table


def _chat(
    runner: RemoteRunner, found: Found, given: Iterable[Any], disable: Collection[str], fields: dict[str, Any]
) -> Chat:
    if found.model is None:
        raise EngineError("the server does not say what it serves; pass model, the name to ask for")
    own = {name: fields.pop(name) for name in _SETTINGS if name in fields}
    own["max_model_len"] = own.get("max_model_len") or found.context
    plugins = Plugins([*given, _Door(runner)], disable)
    _refuse_work(plugins)
    model = ModelInfo(found.model, cast(Any, _Elsewhere(found.model)), settings=Settings(**own))
    return Chat(model, plugins=plugins, engine="remote", defaults=fields)


def _refuse_work(plugins: Plugins) -> None:
    """What a plugin would do to prompt, tokens or text cannot be done here, and must not be lost silently."""
    built_in = {dotted.rpartition(".")[2] for dotted in BUILTINS} | {_Door.name}
    for name in plugins.names:
        lost = [hook for hook in plugins.hooks_of(name) if hook not in _OBSERVERS]
        if name not in built_in and lost:
            raise PluginError(
                f"plugin {name!r}: {', '.join(lost)} would have no effect, as the model generates on another server"
            )


class _Door:
    """Gives the chat its engine."""

    name = "remote"

    def __init__(self, runner: RemoteRunner) -> None:
        self._runner = runner

    @hookimpl
    def engine(self) -> Runner | None:
        return self._runner


class _Elsewhere:
    """Stands for the tokenizer, which is on the server."""

    model_max_length = _NO_LIMIT
    chat_template = None
    response_template = None

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise RequestError(f"the tokenizer of {self._name} is on another server", code="no_tokenizer")
