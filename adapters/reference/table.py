"""``docs/fields.md``: the tables of all fields, by group, between two marks of a page written by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from chatplan.adapters.reference.facts import notes
from chatplan.adapters.reference.fields import field_summary
from chatplan.adapters.reference.markdown import table
from chatplan.fields import request_schema

if TYPE_CHECKING:
    from chatplan.manager import Plugins

__all__ = ["by_group", "with_field_tables"]

_BEGIN = "<!-- made by: python -m chatplan.adapters.reference docs/fields.md -->"
_END = "<!-- end of what is made -->"
_HEADS = ("field", "type", "default", "range", "meaning", "plugin")


def with_field_tables(text: str, plugins: Plugins, pages: Collection[str] | None = None) -> str:
    """``text`` with the tables of today in place of those between the marks.

    Args:
        pages: the fields whose names lead to a page of their own; ``None`` means all.

    Raises:
        ValueError: the marks are not there.
    """
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"between which lines? There is no {_BEGIN if not begin else _END}")
    return f"{before}{begin}\n\n{_tables(plugins, pages)}\n## Notes\n\n{notes()}\n{end}{after}"


def _tables(plugins: Plugins, pages: Collection[str] | None) -> str:
    properties = request_schema(plugins)["properties"]
    return "\n".join(
        f"## {group.capitalize()}\n\n{table(_HEADS, (_row(name, properties[name], pages) for name in names))}"
        for group, names in by_group(properties).items()
    )


def by_group(properties: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of fields under their groups: the built-in groups first, each in its own order."""
    from chatplan.fields import GROUPS

    groups: dict[str, list[str]] = {group: list(names) for group, names in GROUPS.items()}
    for name, prop in properties.items():
        names = groups.setdefault(prop["x-group"], [])
        if name not in names:
            names.append(name)
    return groups


def _row(name: str, prop: Mapping[str, Any], pages: Collection[str] | None) -> tuple[str, ...]:
    kind, default, allowed, meaning = field_summary(name, prop)
    owners = ", ".join(f"`{owner}`" for owner in prop["x-plugins"])
    linked = f"[`{name}`](fields/{name}.md)" if pages is None or name in pages else f"`{name}`"
    return linked, kind, default, allowed, meaning, owners
