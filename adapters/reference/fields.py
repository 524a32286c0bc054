"""The page of one field of the request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from chatplan.adapters.reference.facts import PEERS, Facts, facts_of, note_of
from chatplan.adapters.reference.markdown import block, moved, prose, table
from chatplan.adapters.reference.support import engine_rows, server_rows
from chatplan.adapters.reference.types import default_words, range_words, type_words
from chatplan.fields import request_schema
from chatplan.request import parse_request

if TYPE_CHECKING:
    from chatplan.manager import Plugins

__all__ = ["field_page", "field_summary"]


def field_page(name: str, plugins: Plugins, body: str = "", schema: Mapping[str, Any] | None = None) -> str:
    """The reference of the field ``name`` as Markdown; links are relative to the folder ``docs/fields``.

    Args:
        body: what was written by hand on the field, as Markdown; its title is left out.
        schema: what :func:`chatplan.fields.request_schema` gives for these plugins, if it is there already.

    Raises:
        KeyError: there is no such field.
    """
    prop = (schema or request_schema(plugins))["properties"][name]
    about = facts_of(name, prop)
    parts = [f"# {name}\n", prose(prop.get("description", "")) + "\n", _head(name, prop, about)]
    parts += [_written(body), _example(about) if not body else "", _note(name)]
    return "\n".join(filter(None, [*parts, _support(name, about, prop, plugins), _peers(name, about, prop)]))


def field_summary(name: str, prop: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Type, default, range and meaning of a field."""
    about = facts_of(name, prop)
    default = about.default or default_words(prop)
    return type_words(prop), default, about.range or range_words(prop), prose(prop.get("description", ""))


def _head(name: str, prop: Mapping[str, Any], about: Facts) -> str:
    kind, default, allowed, _ = field_summary(name, prop)
    plain = about.default or f"`{default}`"
    rows = [("type", kind), ("default", plain), ("range", allowed or "any"), ("group", prop["x-group"])]
    owners = ", ".join(f"[`{owner}`](../reference/plugins/{owner}.md)" for owner in prop["x-plugins"])
    return table(("field", f"`{name}`"), [*rows, ("plugin", owners or "none")])


def _written(body: str) -> str:
    first, _, rest = body.partition("\n")
    return rest.lstrip("\n") if first.startswith("# ") else body


def _example(about: Facts) -> str:
    items = [f"  {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.request.items()]
    program = block("python", _program(about.request))
    return "## Example\n\n" + block("json", "{\n" + ",\n".join(items) + "\n}") + f"\nIn Python:\n\n{program}"


def _program(request: Mapping[str, Any]) -> str:
    shown = "{\n" + "".join(f"    {key!r}: {value!r},\n" for key, value in request.items()) + "}"
    read = "for chunk in chat(request):\n    print(chunk)" if request.get("stream") else _CHOICES
    return f"{_CHAT}\n\nrequest = {shown}\n{read}\n"


_CHAT = """from chatplan import pipeline

chat = pipeline("chat", model="HuggingFaceTB/SmolLM2-135M-Instruct")"""
_CHOICES = "for choice in chat(request).choices:\n    print(choice.message)"


def _note(name: str) -> str:
    note = moved(note_of(name), "../")
    return f"## What holds here\n\n{note}\n" if note else ""


def _support(name: str, about: Facts, prop: Mapping[str, Any], plugins: Plugins) -> str:
    request = parse_request(about.request, plugins.request_type)
    engines = table(("engine", "honours it"), engine_rows(prop))
    said = f"## Engines and servers\n\n{engines}\n"
    if find_spec("openai") is None:
        return said + "Install `chatplan[remote]` to see here which other servers honour it.\n"
    servers = table(("server", "honours it"), server_rows(name, request))
    return f"{said}By `chatplan.connect`, with the example's value:\n\n{servers}"


def _peers(name: str, about: Facts, prop: Mapping[str, Any]) -> str:
    if not about.peers:
        owners = " and ".join(prop["x-plugins"])
        return f"## Elsewhere\n\nThe plugin {owners} brings this field; other servers do not know it.\n"
    return "## Elsewhere\n\n" + table(("server", name), [(peer, about.peers[peer]) for peer in PEERS])
