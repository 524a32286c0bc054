"""``chatplan explain``."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatplan.adapters.cli.loading import missing_folder
from chatplan.adapters.cli.options import Disabled, PluginNames
from chatplan.adapters.cli.reading import read_json
from chatplan.errors import EngineError

if TYPE_CHECKING:
    from chatplan.explaining import Explanation, FieldEffect

__all__ = ["explain", "print_explanation"]


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
    explanation = _explain(read_json(request), model, plugin or (), disable or ())
    if as_json:
        typer.echo(json.dumps(explanation.to_dict(), ensure_ascii=False, indent=2))
        return
    print_explanation(explanation)
    if model is None:
        typer.echo("Explained without a model: the prompt is counted in bytes. Pass --model for a checkpoint's own.")


def _explain(data: Any, model: str | None, plugin: Any, disable: Any) -> Explanation:
    from chatplan.explaining import explain as explain_request
    from chatplan.manager import Plugins
    from chatplan.model import ModelInfo
    from chatplan.request import parse_request
    from chatplan.standin import stand_in

    plugins = Plugins(plugin, disable)
    request = parse_request(data, plugins.request_type)
    try:
        missing_folder(model or "")
        info = stand_in(request.model) if model is None else ModelInfo.without_weights(model)
    except (OSError, ValueError) as error:
        raise EngineError(f"no model is there: {error}", param=model) from error
    return explain_request(request, info, plugins)


def print_explanation(explanation: Explanation) -> None:
    """The explanation as a table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table("field", "value", "plugin", "became", "engines", title=f"request {explanation.plan.request_id}")
    for row in (*explanation.fields, *explanation.standing):
        table.add_row(*_cells(row))
    Console().print(table)


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
