"""The commands under their names."""

from __future__ import annotations

from typing import Annotated

import typer

import chatplan
from chatplan.adapters.auth.commands import app as keys
from chatplan.adapters.bench.commands import bench
from chatplan.adapters.cli.chat import chat
from chatplan.adapters.cli.doctor import doctor
from chatplan.adapters.cli.explain import explain
from chatplan.adapters.cli.failures import Commands
from chatplan.adapters.cli.field_flags import FieldCommand
from chatplan.adapters.cli.run import run
from chatplan.adapters.cli.schema import schema
from chatplan.adapters.cli.serve import serve
from chatplan.adapters.new_plugin.commands import new_plugin
from chatplan.adapters.playground.commands import CONTEXT_SETTINGS, playground
from chatplan.adapters.reference.commands import plugins

__all__ = ["app"]

app: typer.Typer = typer.Typer(
    cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, help=chatplan.__doc__
)
app.add_typer(keys, name="keys")
app.command(cls=FieldCommand)(chat)
app.command(cls=FieldCommand)(run)
app.command()(explain)
app.command()(doctor)
app.command()(schema)
app.command()(plugins)
app.command()(bench)
app.command("new-plugin")(new_plugin)
app.command(context_settings=CONTEXT_SETTINGS)(playground)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
)(serve)


@app.callback(invoke_without_command=True)
def _chatplan(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from, not only its line.")] = False,
) -> None:
    if version:
        typer.echo(chatplan.__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        context.fail("missing command")
