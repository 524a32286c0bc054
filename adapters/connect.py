"""A chat whose answers come from a server that runs already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chatplan.chat import Chat
from chatplan.errors import ChatplanError, EngineError

__all__ = ["connect"]


def connect(urls: str | Sequence[str], *, server: str = "auto", tokenizer: str | None = None, **arguments: Any) -> Chat:
    """A chat on a running server, or on several that serve the same model.

    A TGI server gets prompts that are rendered here, and gives tokens; all others get whole requests.

    Args:
        urls: the server's address; several for those that take whole requests.
        server: ``chatplan``, ``vllm``, ``sglang``, ``llama.cpp``, ``tgi``, ``openai`` for others, or ``auto`` to ask.
        tokenizer: for TGI, the checkpoint that the server runs; its tokenizer and chat template are needed here.
        arguments: as for :func:`chatplan.adapters.tgi.tgi_chat` or :func:`chatplan.adapters.remote.remote_chat`.

    Raises:
        OverloadedError: no server can be reached.
        EngineError: there is more than one address of a TGI server, or a package is missing.
        ValueError: there is no such kind of server.
    """
    addresses = [urls] if isinstance(urls, str) else list(urls)
    known = arguments.get("api_key"), arguments.get("headers")
    if server == "tgi" or (server == "auto" and (tokenizer is not None or is_tgi(addresses, *known))):
        if len(addresses) != 1:
            raise EngineError("one address of a TGI server at a time; put a load balancer before several")
        from chatplan.adapters.tgi import tgi_chat

        return tgi_chat(addresses[0], tokenizer, **arguments)
    try:
        from chatplan.adapters.remote import remote_chat
    except ModuleNotFoundError as error:
        raise EngineError(f"{error}; `pip install chatplan[remote]` brings what this needs") from error
    return remote_chat(addresses, server=server, **arguments)


def is_tgi(urls: Sequence[str], api_key: str | None = None, headers: Mapping[str, str] | None = None) -> bool:
    """Whether the first server says of itself what only TGI does. One that is away says nothing."""
    from chatplan.adapters.tgi.chat import root_of, sent_headers, server_info

    try:
        return "max_best_of" in server_info(root_of(urls[0]), sent_headers(api_key, headers), 10)
    except (ChatplanError, IndexError):
        return False
