"""The command ``chatplan new-plugin``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from chatplan.adapters.new_plugin.kinds import Kind

__all__ = ["new_plugin"]


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the plugin is called, such as loud-words.")],
    field: Annotated[str | None, typer.Option(help="The request's new field; default the name.")] = None,
    kind: Annotated[Kind, typer.Option("--type", help="The type of the field.")] = Kind.float,
    output: Annotated[Path | None, typer.Option(help="The folder to write; default ./NAME.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a complete plugin package: a request field, its work on the logits, and tests that pass."""
    from chatplan.adapters.new_plugin.naming import Names
    from chatplan.adapters.new_plugin.writing import write_package

    names = Names.of(name, field, again=force)
    folder = output or Path(name)
    files = write_package(folder, names, kind, force)
    for file in files:
        typer.echo(file)
    typer.echo(f"\nThe plugin {names.plugin!r} adds the field {names.field!r}. Next:\n")
    typer.echo(f'  cd {shlex.quote(str(folder))}\n  pip install -e ".[test]"\n  pytest\n  chatplan schema')
