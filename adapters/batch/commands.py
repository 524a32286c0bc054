"""The command ``python -m chatplan.batch``."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer

from chatplan.adapters.batch.options import Options
from chatplan.adapters.batch.processes import is_first, leave_with_launcher
from chatplan.errors import ChatplanError, EngineError, RequestError
from chatplan.settings import Settings

__all__ = ["batch", "main"]

BATCH_SIZE = 32
"""Rows run together unless ``--batch-size`` says else: more than in a pipeline, as nobody waits for the first."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with an option for each of :class:`Settings`; it gets those that were given, as ``settings``."""
    options = list(_setting_options())

    @functools.wraps(command)
    def call(**given: Any) -> None:
        settings = {option.name: given.pop(option.name) for option in options}
        command(**given, settings={name: value for name, value in settings.items() if value is not None})

    own = [item for item in inspect.signature(command, eval_str=True).parameters.values() if item.name != "settings"]
    parameters = [item.replace(kind=inspect.Parameter.KEYWORD_ONLY) for item in own] + options
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {item.name: item.annotation for item in parameters}
    return call


def _setting_options() -> Iterator[inspect.Parameter]:
    """One option for each setting, told as the class tells it."""
    hints = get_type_hints(Settings)
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", inspect.getdoc(Settings) or "", re.MULTILINE)
    about = {name: re.sub(r"\s+", " ", text).replace("``", "") for name, text in found}
    for item in dataclasses.fields(Settings):
        default = BATCH_SIZE if item.name == "batch_size" else item.default
        text = about[item.name] + ("" if default is None else f" Default: {default}.")
        option = typer.Option(help=text, rich_help_panel="Settings of the model")
        kind = str if get_origin(hints[item.name]) is Literal else _without_none(hints[item.name])
        annotation: Any = Annotated[kind | None, option]
        yield inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _without_none(hint: Any) -> Any:
    return next((part for part in get_args(hint) if part is not type(None)), hint)


@with_settings
def batch(
    source: Annotated[Path, typer.Argument(metavar="IN.JSONL", help="Requests in OpenAI's batch format.")],
    output: Annotated[Path, typer.Argument(metavar="OUT.JSONL", help="Where the answers go, in the same order.")],
    model: Annotated[str, typer.Option(help="A checkpoint: a name on the hub, or a folder.")],
    served_model_name: Annotated[str, typer.Option(help="What requests call the model, if not as --model.")] = "",
    plugin: Annotated[list[str] | None, typer.Option(help="A plugin's dotted name; repeat for more.")] = None,
    disable: Annotated[list[str] | None, typer.Option(help="A plugin to leave out; repeat for more.")] = None,
    default: Annotated[
        list[str] | None, typer.Option(metavar="FIELD=JSON", help="A value for requests without it; repeat for more.")
    ] = None,
    engine: Annotated[
        str, typer.Option(help="auto and generate give the same file each time; continuous is faster, see the docs.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="The type of the weights: auto, float32, bfloat16, float16.")] = "auto",
    device_map: Annotated[
        str | None, typer.Option(help="How accelerate places the layers of a single process: auto, or JSON.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, and replace what is there.")] = False,
    settings: Any = None,
) -> None:
    """Answer a file of requests. Killed and started again, it goes on where it was.

    Under `accelerate launch -m chatplan.batch` each process has a model and takes a part of the requests.
    """
    leave_with_launcher()
    try:
        options = Options(
            model=model,
            served_model_name=served_model_name,
            dtype=dtype,
            plugins=tuple(plugin or ()),
            disable=tuple(disable or ()),
            defaults=dict(map(_field, default or ())),
            settings=_settings(settings),
            engine=engine,
            device_map=device_map,
        )
        _run(source, output, options, restart)
    except ChatplanError as error:
        if is_first() or isinstance(error, EngineError):
            typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1 if isinstance(error, EngineError) else 2) from None
    except KeyboardInterrupt:
        if is_first():
            typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None


def _run(source: Path, output: Path, options: Options, restart: bool) -> None:
    from chatplan.adapters.batch.running import run_job

    summary = run_job(source, output, options, restart)
    if summary is not None:
        typer.echo(f"{summary} in {output}", err=True)
    elif is_first():
        typer.echo(f"{output} is complete already; --restart answers anew", err=True)


def _settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings(**{"batch_size": BATCH_SIZE, **given})
    except ValueError as error:
        raise RequestError(str(error)) from None


def _field(given: str) -> tuple[str, Any]:
    """``temperature=0``; what is not JSON is a string."""
    name, equals, value = given.partition("=")
    if not equals:
        raise RequestError(f"is to be written as field=value, got {given!r}", param="--default")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main() -> None:
    """Run the command with the arguments of the process."""
    # Read when torch is loaded. Without it MKL's last bits hang on where in memory a matrix happens to lie.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(batch)
    app()
