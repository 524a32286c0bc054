"""What kind of server answers at a URL, which version, and what it serves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import openai

from chatplan.adapters.remote.failures import translated
from chatplan.adapters.remote.server import Server

__all__ = ["Found", "look_at"]

_OWNERS = {"chatplan": "chatplan", "vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}


@dataclass(frozen=True)
class Found:
    """What a server says of itself.

    Attributes:
        kind: as in ``chatplan.adapters.remote.tables.KINDS``.
        model: the first model that it lists.
        context: most tokens of prompt and answer, where it says so.
        about: its settings, where it shows them.
    """

    kind: str
    version: str | None = None
    model: str | None = None
    context: int | None = None
    about: Mapping[str, Any] = field(default_factory=dict)


async def look_at(server: Server, kind: str = "auto") -> Found:
    """Ask the server; ``kind`` is what it is known to be.

    Raises:
        ChatplanError: it cannot be reached, or wants another credential.
    """
    try:
        card = _first_model(await _get(server, f"{server.url}/models"))
        if kind == "auto":
            kind = _OWNERS.get(str(card.get("owned_by")), "")
        return await _closer(server, kind, card)
    except openai.APIError as error:
        raise translated(error) from error


async def _closer(server: Server, kind: str, card: Mapping[str, Any]) -> Found:
    root = server.url.removesuffix("/v1")
    model, context = card.get("id"), card.get("max_model_len")
    if kind in ("vllm", "chatplan"):
        about = await _get(server, f"{root}/version")
        return Found(kind, about.get("version"), model, context)
    if kind == "sglang":
        about = await _get(server, f"{root}/server_info") or await _get(server, f"{root}/get_server_info")
        return Found(kind, about.get("version"), model, context, about)
    if kind == "llama.cpp":
        about = await _get(server, f"{root}/props")
        return Found(kind, about.get("build_info"), model, (card.get("meta") or {}).get("n_ctx"))
    about = await _get(server, f"{root}/info") if kind in ("", "tgi") else {}
    if kind == "tgi" or "max_best_of" in about:
        return Found("tgi", about.get("version"), model or about.get("model_id"), about.get("max_total_tokens"))
    return Found("openai", None, model, context)


async def _get(server: Server, url: str) -> Mapping[str, Any]:
    """The object at ``url``; an empty one where there is none."""
    try:
        found = await server.get(url)
    except (openai.NotFoundError, openai.BadRequestError):
        return {}
    except openai.APIStatusError as error:
        if error.status_code in (405, 501):
            return {}
        raise
    return found if isinstance(found, Mapping) else {}


def _first_model(listed: Mapping[str, Any]) -> Mapping[str, Any]:
    data = listed.get("data")
    return data[0] if isinstance(data, list) and data and isinstance(data[0], Mapping) else {}
