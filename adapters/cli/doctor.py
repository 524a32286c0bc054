"""``chatplan doctor``."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatplan.adapters.cli.options import AsJson, Disabled, PluginNames
from chatplan.errors import PluginError

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["doctor"]

_RUNS = dict.fromkeys(("generate", "continuous"), "runs")


def doctor(
    model: Annotated[
        str | None, typer.Option(help="A checkpoint to look at: its configuration, tokenizer and template.")
    ] = None,
    as_json: AsJson = False,
    plugin: PluginNames = None,
    disable: Disabled = None,
) -> None:
    """Show what is here, and what can run: versions, devices, engines, grammar backends, extras, a checkpoint.

    The exit code is 0 when an engine runs here (and the checkpoint, if one was named, can be used), else 1.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    found = _examine(model, plugin or [], disable or [])
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print(found)
    raise typer.Exit(0 if found["ok"] else 1)


def _examine(model: str | None, plugin: list[str], disable: list[str]) -> dict[str, Any]:
    from chatplan.adapters.cli.machine import devices, extras, memory, versions

    found: dict[str, Any] = {"ok": False, "problem": None, "versions": versions(), "memory": memory()}
    found["extras"] = extras()
    try:
        found["devices"] = devices()
        _try(found, model, plugin, disable)
    except PluginError:
        raise
    except Exception as error:  # a broken torch or transformers raises whatever it likes
        found["problem"] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return found


def _try(found: dict[str, Any], model: str | None, plugin: list[str], disable: list[str]) -> None:
    from chatplan.adapters.cli.checks import check_backends, check_engines, check_model
    from chatplan.manager import Plugins

    plugins = Plugins(plugin, disable)
    found["plugins"] = list(plugins.names)
    found["engines"] = check_engines(plugins)
    found["backends"] = check_backends(plugins)
    found["ok"] = any(found["engines"][name] is None for name in ("generate", "continuous"))
    if model is not None:
        found["model"] = check_model(model, plugins)
        found["ok"] = found["ok"] and found["model"]["error"] is None


def _print(found: Mapping[str, Any]) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for table in _tables(found):
        console.print(table)
    if found["problem"]:
        console.print(f"nothing can run: {found['problem']}", markup=False, style="red")
    elif not found["ok"]:
        wrong = found.get("model", {}).get("error") or "no engine runs here"
        console.print(f"not ready: {wrong}", markup=False, style="red")
    else:
        console.print("ready", style="green")


def _tables(found: Mapping[str, Any]) -> Iterator[Table]:
    yield _table("versions", found["versions"].items())
    if "devices" in found:
        yield _table("devices", [(item["device"], _device(item)) for item in found["devices"]])
    if "engines" in found:
        yield _table(
            "engines", [(name, why or _RUNS.get(name, "can be used")) for name, why in found["engines"].items()]
        )
        yield _table("grammar backends", [(name, why or "works") for name, why in found["backends"].items()])
    missing = [(name, f"missing: {', '.join(lack)}" if lack else "installed") for name, lack in found["extras"].items()]
    yield _table("extras, as in pip install 'chatplan[…]'", missing)
    if "model" in found:
        known = {name: "none" if value is None else value for name, value in found["model"].items()}
        yield _table("model", known.items())


def _device(item: Mapping[str, Any]) -> str:
    free = "" if item["free"] is None else f", {item['free'] / 2**30:.1f} GiB free"
    return f"{item['name']}; {item['memory'] / 2**30:.1f} GiB{free}"


def _table(title: str, rows: Any) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None, padding=(0, 2))
    for name, value in rows:
        table.add_row(escape(str(name)), escape("not installed" if value is None else str(value)))
    return table
