"""``chatplan keys``: make, list and revoke API keys."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.adapters.auth.keys import KeyRecord

__all__ = ["app"]

app: typer.Typer = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys of the server.")

File = Annotated[
    Path, typer.Option(envvar="CHATPLAN_AUTH__KEYS_FILE", help="The file with the hashes of the keys.", dir_okay=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    file: File,
    name: Annotated[str, typer.Option(help="Whose key it is; it is shown in lists.")],
    model: Annotated[list[str] | None, typer.Option(help="A model that may be used; repeat for more.")] = None,
    max_priority: Annotated[int | None, typer.Option(help="The most urgent (lowest) priority allowed.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1, help="The most requests in a minute.")] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="The most tokens of prompts and answers in a minute.")
    ] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="The most requests at once.")] = None,
    expires_in: Annotated[float | None, typer.Option(min=0, max=36500, help="Days until the key expires.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown this once; the file keeps only its hash. An option left out is no limit."""
    from chatplan.adapters.auth.keys import KeyStore, Limits, now

    with _errors_in_one_line():
        limits = Limits(
            models=tuple(dict.fromkeys(model)) if model else None,
            max_priority=max_priority,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            concurrency=concurrency,
        )
        expires = None if expires_in is None else now() + timedelta(days=expires_in)
        record, key = KeyStore(file).create(name, limits, expires)
    if as_json:
        typer.echo(json.dumps({"key": key, **_public(record)}, indent=2))
    else:
        typer.echo(key)
        typer.echo(f"id {record.id}; the key is not shown again", err=True)


@app.command("list")
def list_keys(file: File, as_json: AsJson = False) -> None:
    """List the keys: ids, names and limits, never the keys themselves."""
    from chatplan.adapters.auth.keys import KeyStore

    with _errors_in_one_line():
        records = [_public(record) for record in KeyStore(file).records()]
    if as_json:
        typer.echo(json.dumps(records, indent=2))
    else:
        _print_table(records)


@app.command()
def revoke(file: File, key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as listed.")]) -> None:
    """Make a key invalid at once, also in servers that run."""
    from chatplan.adapters.auth.keys import KeyStore

    with _errors_in_one_line():
        record = KeyStore(file).revoke(key_id)
    typer.echo(f"revoked {record.id} ({record.name})")


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        raise RequestError(first["msg"], param=".".join(map(str, first["loc"]))) from error
    except ValueError as error:
        raise RequestError(str(error)) from error


def _public(record: KeyRecord) -> dict[str, Any]:
    return {**record.model_dump(mode="json", exclude={"sha256"}), "state": record.state}


def _print_table(records: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    table = Table(Column("id", no_wrap=True), "name", "state", "expires", "models", "limits")
    limits = ("max_priority", "requests_per_minute", "tokens_per_minute", "concurrency")
    for record in records:
        held = "\n".join(f"{name}={record[name]}" for name in limits if record[name] is not None)
        cells = [record[name] or "" for name in ("id", "name", "state", "expires")]
        table.add_row(*map(escape, [*cells, "\n".join(record["models"] or []), held]))
    Console().print(table)
