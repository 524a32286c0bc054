"""Options that several commands have."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "ApiKey",
    "AsJson",
    "Assignments",
    "DeviceMap",
    "Disabled",
    "Dtype",
    "EngineName",
    "PluginNames",
    "ServedName",
]

PluginNames = Annotated[list[str] | None, typer.Option("--plugin", help="A plugin's dotted name; repeat for more.")]
Disabled = Annotated[list[str] | None, typer.Option("--disable", help="A plugin to leave out; repeat for more.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any field of the request, as JSON or text; repeat for more."),
]
ServedName = Annotated[
    str, typer.Option(help="What answers call the model; on a server with several, which one to ask.")
]
EngineName = Annotated[str, typer.Option("--engine", help="auto, generate, continuous, or one that a plugin offers.")]
Dtype = Annotated[str, typer.Option(help="The type of the weights: auto, float32, bfloat16, float16.")]
DeviceMap = Annotated[str | None, typer.Option(help="How accelerate places the layers: auto, or a JSON object.")]
ApiKey = Annotated[
    str | None, typer.Option(envvar="CHATPLAN_API_KEY", show_envvar=True, help="The key that a server asks for.")
]
