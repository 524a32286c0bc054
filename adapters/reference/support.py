"""Which engines and which servers honour a field: the tables that decide it are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from chatplan.capabilities import UNSUPPORTED

if TYPE_CHECKING:
    from chatplan.adapters.remote.table import Table
    from chatplan.request import ChatCompletionRequest

__all__ = ["engine_rows", "server_rows"]


def engine_rows(prop: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each engine, and ``yes`` or why it cannot."""
    refused = prop.get("x-refused", {})
    for engine in UNSUPPORTED:
        yield f"`{engine}`", f"no: {refused[engine]}" if engine in refused else "yes"


def server_rows(name: str, request: ChatCompletionRequest) -> Iterator[tuple[str, str]]:
    """Each kind of server that runs elsewhere, and what it is sent for the field ``name`` of ``request``."""
    from chatplan.adapters.remote.tables import KINDS, table_for

    for kind in KINDS:
        yield f"`{kind}`", _sent(name, request, table_for(kind))


def _sent(name: str, request: ChatCompletionRequest, table: Table) -> str:
    from chatplan.adapters.remote.rules import Refused

    if name not in table.rules:
        reason = table.unsupported.get(name, f"{table.server} has no such field")
        return "yes" if table.plugin_fields else f"no: {reason}"
    value = request.model_dump(mode="json", warnings=False).get(name)
    try:
        sent = table.rules[name](name, value, request)
    except Refused as reason:
        return f"no: {reason}"
    others = [key for key in sent if key != name]
    return "yes" if name in sent else f"as `{others[0]}`" if others else "yes, nothing is sent: done on this side"
