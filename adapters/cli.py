"""The command line: ``chatplan explain``, ``chatplan schema`` and ``chatplan keys``."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BaseModel

import chatplan
from chatplan.adapters.auth.commands import app as keys
from chatplan.errors import ChatplanError, RequestError

if TYPE_CHECKING:
    from chatplan.explaining import Explanation, FieldEffect

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, add_completion=True, pretty_exceptions_enable=False, help=chatplan.__doc__)
app.add_typer(keys, name="keys")

PluginNames = Annotated[list[str] | None, typer.Option("--plugin", help="A plugin's dotted name; repeat for more.")]
Disabled = Annotated[list[str] | None, typer.Option("--disable", help="A plugin to leave out; repeat for more.")]


class Shape(str, Enum):
    """What ``chatplan schema`` describes."""

    request = "request"
    response = "response"
    chunk = "chunk"


@app.command()
def explain(
    request: Annotated[Path, typer.Argument(help="The request as a JSON file; - reads standard input.")],
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, for its tokenizer and limits; no weights load.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the explanation and the plan as JSON.")] = False,
    plugin: PluginNames = None,
    disable: Disabled = None,
) -> None:
    """Show which plugin turned which field into what."""
    try:
        explanation = _explain(_read(request), model, plugin or (), disable or ())
    except ChatplanError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(json.dumps(explanation.to_dict(), ensure_ascii=False, indent=2))
    else:
        _print_table(explanation, model)


@app.command()
def schema(
    shape: Annotated[Shape, typer.Argument(help="Which of the three.")] = Shape.request, plugin: PluginNames = None
) -> None:
    """Print the JSON schema of the request (with the fields plugins add), the response, or a chunk of a stream."""
    from chatplan.manager import Plugins
    from chatplan.response import ChatCompletion, ChatCompletionChunk

    try:
        request_type = Plugins(plugin or ()).request_type
    except ChatplanError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    types: dict[Shape, type[BaseModel]] = {Shape.request: request_type, Shape.response: ChatCompletion}
    model = types.get(shape, ChatCompletionChunk)
    typer.echo(json.dumps(model.model_json_schema(), ensure_ascii=False, indent=2))


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    help="Serve a model over HTTP; `chatplan serve --help` lists all settings.",
)
def serve(context: typer.Context) -> None:
    """Its settings are a class of their own, which reads flags, the environment and a file."""
    try:
        from chatplan.adapters.server.commands import run
    except ModuleNotFoundError as error:
        typer.echo(f"error: {error}; `pip install chatplan[serve]` brings what the server needs", err=True)
        raise typer.Exit(2) from None
    run(context.args)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False) -> None:
    if version:
        typer.echo(chatplan.__version__)
        raise typer.Exit


def _read(path: Path) -> Any:
    try:
        return json.loads(sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot be read: {error}", param=str(path)) from error
    except ValueError as error:
        raise RequestError(f"is not JSON: {error}", param=str(path)) from error


def _explain(data: Any, model: str | None, plugin: Any, disable: Any) -> Explanation:
    from chatplan.explaining import explain as explain_request
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo
    from chatplan.request import parse_request
    from chatplan.standin import stand_in

    plugins = Plugins(plugin, disable)
    request = parse_request(data, plugins.request_type)
    try:
        info = stand_in(request.model) if model is None else ModelInfo.without_weights(model)
    except (OSError, ValueError) as error:
        raise RequestError(f"no model is there: {error}", param="--model") from error
    return explain_request(request, info, plugins)


def _print_table(explanation: Explanation, model: str | None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("field", "value", "plugin", "became", "engines", title=f"request {explanation.plan.request_id}")
    for row in (*explanation.fields, *explanation.standing):
        table.add_row(*_cells(row))
    console = Console()
    console.print(table)
    if model is None:
        console.print("Explained without a model: the prompt is counted in bytes. Pass --model for a checkpoint's own.")


def _cells(row: FieldEffect) -> list[str]:
    from rich.markup import escape

    from chatplan.plan import describe

    value = "" if row.field is None else json.dumps(describe(row.value), ensure_ascii=False)
    became = "\n".join(_short(text, 240) for text in row.became)
    cells = [row.field or "(default)", _short(value, 60), ", ".join(row.plugins), became, _engines(row.engines)]
    return [escape(cell) for cell in cells]


def _engines(names: Collection[str]) -> str:
    from chatplan.capabilities import UNSUPPORTED

    missing = [name for name in UNSUPPORTED if name not in names]
    return "all" if not missing else f"all but {', '.join(missing)}"


def _short(text: str, length: int) -> str:
    """A schema may be of any length; ``--json`` has all of it."""
    return text if len(text) <= length else text[: length - 3] + "..."
