"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["AsJson", "Disabled", "PluginNames"]

PluginNames = Annotated[list[str] | None, typer.Option("--plugin", help="A plugin's dotted name; repeat for more.")]
Disabled = Annotated[list[str] | None, typer.Option("--disable", help="A plugin to leave out; repeat for more.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
