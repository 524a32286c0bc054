"""A command with a flag for each field of the request, those of plugins too."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from chatplan.adapters.cli.fields import NOT_FLAGS, Field, assignment, field_table

__all__ = ["FieldCommand", "given_fields"]

_PREFIX = "field_"


class FieldCommand(TyperCommand):
    """The fields that were given are in ``context.meta`` (:func:`given_fields`); they are known once plugins are."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = {name: list(_values(args, f"--{name}")) for name in ("plugin", "disable")}
        ctx.meta["chatplan.plugins"] = named["plugin"], named["disable"]
        rest = super().parse_args(ctx, args)
        found = {name: ctx.params.pop(name) for name in list(ctx.params) if name.startswith(_PREFIX)}
        ctx.meta["chatplan.fields"] = {
            name.removeprefix(_PREFIX): value for name, value in found.items() if value not in (None, (), [])
        }
        return rest

    def get_params(self, ctx: Any) -> list[Any]:
        own = super().get_params(ctx)
        if "chatplan.plugins" not in ctx.meta:
            return own
        if "chatplan.options" not in ctx.meta:
            taken = {flag for param in own for flag in param.opts}
            ctx.meta["chatplan.table"] = _load_table(*ctx.meta["chatplan.plugins"])
            ctx.meta["chatplan.options"] = _options(ctx.meta["chatplan.table"], taken)
        *own, help_option = own
        return [*own, *ctx.meta["chatplan.options"], help_option]


def given_fields(context: typer.Context, assignments: Sequence[str]) -> dict[str, Any]:
    """The fields of flags and of ``--set``, which wins.

    Raises:
        RequestError: naming the field whose text is no value.
    """
    table: Mapping[str, Field] = context.meta["chatplan.table"]
    given = {name: _parsed(table[name], value) for name, value in context.meta["chatplan.fields"].items()}
    return {**given, **dict(assignment(table, text) for text in assignments)}


def _parsed(field: Field, given: Any) -> Any:
    if isinstance(given, bool):
        return given
    return field.parse_all(given) if field.repeats else field.parse(given)


def _load_table(plugins: Sequence[str], disable: Sequence[str]) -> dict[str, Field]:
    # Read when torch is loaded, which a hook does: without it, digits hang on where in memory a matrix lies.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    from chatplan.manager import Plugins

    return field_table(Plugins(plugins, disable))


def _options(table: Mapping[str, Field], taken: set[str]) -> list[Any]:
    """A flag of the command itself wins over a field of the same name, which ``--set`` can give."""

    def fields(**given: Any) -> None: ...

    wanted = [field for field in table.values() if field.name not in NOT_FLAGS and _flag(field) not in taken]
    parameters = list(map(_parameter, wanted))
    fields.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    fields.__annotations__ = {item.name: item.annotation for item in parameters}
    # typer makes options of a function's parameters alone; how it does so is not the same in all versions.
    made = typer.Typer(add_completion=False)
    made.command(add_help_option=False)(fields)
    return list(typer.main.get_command(made).params)


def _flag(field: Field) -> str:
    return f"--{field.name.replace('_', '-')}"


def _parameter(field: Field) -> inspect.Parameter:
    flag, panel = _flag(field), field.group[:1].upper() + field.group[1:]
    if field.kinds == {"boolean"}:
        option = typer.Option(f"{flag}/--no-{flag.removeprefix('--')}", help=field.help, rich_help_panel=panel)
        kind: Any = bool
    else:
        option = typer.Option(flag, help=field.help, metavar=field.metavar, rich_help_panel=panel)
        kind = list[str] if field.repeats else str
    annotation: Any = Annotated[kind | None, option]
    return inspect.Parameter(_PREFIX + field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _values(args: Sequence[str], flag: str) -> Iterator[str]:
    """What ``flag`` is given, before anything is parsed."""
    for at, arg in enumerate(args):
        if arg == flag and at + 1 < len(args):
            yield args[at + 1]
        elif arg.startswith(f"{flag}="):
            yield arg.partition("=")[2]
