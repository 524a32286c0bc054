"""``chatplan plugins``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chatplan.adapters.reference.plugins import PluginFacts

__all__ = ["plugins"]


def plugins(
    plugin: Annotated[
        list[str] | None, typer.Option("--plugin", help="A plugin's dotted name; repeat for more.")
    ] = None,
    disable: Annotated[list[str] | None, typer.Option("--disable", help="A plugin to leave out; repeat.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write one page of HTML, with the reference of all fields.")
    ] = None,
) -> None:
    """List the plugins: hooks, request fields, version, and where each comes from."""
    from chatplan.adapters.reference.plugins import plugin_facts
    from chatplan.manager import Plugins

    loaded = Plugins(plugin or (), disable or ())
    if html is not None:
        from chatplan.adapters.reference.html import plugins_html

        _write(html, plugins_html(loaded))
    elif as_json:
        typer.echo(json.dumps([dataclasses.asdict(each) for each in plugin_facts(loaded)], indent=2))
    else:
        _print(plugin_facts(loaded))


def _write(path: Path, text: str) -> None:
    from chatplan.errors import EngineError

    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise EngineError(f"{path} cannot be written: {error.strerror}", param="--html", code="not_written") from error
    typer.echo(f"wrote {path}")


def _print(facts: Sequence[PluginFacts]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(*(Column(head, overflow="fold") for head in ("plugin", "hooks", "fields", "from")))
    for each in facts:
        place = "" if each.source == "built in" else each.module
        origin = filter(None, (each.source, place, f"{each.package} {each.version}".strip()))
        table.add_row(*map(escape, (each.name, "\n".join(each.hooks), "\n".join(each.fields), "\n".join(origin))))
    Console().print(table)
