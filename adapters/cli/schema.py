"""``chatplan schema``."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any

import typer

from chatplan.adapters.cli.options import Disabled, PluginNames

__all__ = ["schema"]


class Shape(str, Enum):
    """What ``chatplan schema`` describes."""

    request = "request"
    response = "response"
    chunk = "chunk"


def schema(
    shape: Annotated[Shape, typer.Argument(help="Which of the three.")] = Shape.request,
    plugin: PluginNames = None,
    disable: Disabled = None,
) -> None:
    """Print the JSON schema of the request (with the fields plugins add), the response, or a chunk of a stream."""
    typer.echo(json.dumps(_schema(shape, plugin or (), disable or ()), ensure_ascii=False, indent=2))


def _schema(shape: Shape, plugin: Any, disable: Any) -> dict[str, Any]:
    from chatplan.fields import request_schema
    from chatplan.manager import Plugins
    from chatplan.response import ChatCompletion, ChatCompletionChunk

    plugins = Plugins(plugin, disable)
    if shape is Shape.request:
        return request_schema(plugins)
    return (ChatCompletion if shape is Shape.response else ChatCompletionChunk).model_json_schema()
