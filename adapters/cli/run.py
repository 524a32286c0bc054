"""``chatplan run``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatplan.adapters.batch.commands import BATCH_SIZE, with_settings
from chatplan.adapters.cli.field_flags import given_fields
from chatplan.adapters.cli.loading import DEFAULT_MODEL, Place, check_local, is_url, load_chat
from chatplan.adapters.cli.options import (
    ApiKey,
    Assignments,
    DeviceMap,
    Disabled,
    Dtype,
    EngineName,
    PluginNames,
    ServedName,
)
from chatplan.adapters.cli.reading import read_text
from chatplan.adapters.cli.requests_file import batch_file, is_lines, one_request
from chatplan.errors import EngineError, RequestError

if TYPE_CHECKING:
    from chatplan.adapters.batch.options import Options
    from chatplan.chat import Chat

__all__ = ["run"]


@with_settings
def run(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A request (.json), or one a line (.jsonl); - reads standard input.")
    ],
    model: Annotated[
        str, typer.Option(envvar="CHATPLAN_MODEL", help="A name on the hub, a folder, or a running server's URL.")
    ] = DEFAULT_MODEL,
    output: Annotated[
        Path | None, typer.Option(help="Where the answers to a .jsonl go; absent, FILE.answers.jsonl beside it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the whole answer, and not its text alone.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Print the answer as it comes; with --json, chunks.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Answer a .jsonl anew, and replace what is there.")
    ] = False,
    assignments: Assignments = None,
    plugin: PluginNames = None,
    disable: Disabled = None,
    engine: EngineName = "auto",
    dtype: Dtype = "auto",
    device_map: DeviceMap = None,
    served_model_name: ServedName = "",
    api_key: ApiKey = None,
    settings: Any = None,
) -> None:
    """Answer a file: one request, whose answer is printed, or one a line.

    Fields given as flags win over those in the file. Answers to a .jsonl go to a file, in OpenAI's batch format;
    killed and started again, it goes on where it was.
    """
    fields = given_fields(context, assignments or ())
    place = Place(
        model, served_model_name, plugin or (), disable or (), engine, dtype, device_map, settings or {}, api_key
    )
    text = read_text(file)
    if is_lines(file, text):
        if as_json or stream:
            raise RequestError("is for a single request; answers to several go to --output", param="--json, --stream")
        _run_lines(file, text, _output(file, output), place, fields, restart)
    elif output is not None or restart:
        raise RequestError("is for files of several requests (.jsonl)", param="--output, --restart")
    else:
        _run_one(place, {**one_request(file, text), **fields}, as_json, stream)


def _run_one(place: Place, request: dict[str, Any], as_json: bool, stream: bool) -> None:
    from chatplan.adapters.cli.printing import Printer, print_whole

    chat = load_chat(place)
    try:
        request = {**request, "stream": True} if stream else request
        if not chat.request(request).stream:
            completion = chat.complete(request)
            print_whole(completion) if not as_json else print(_json(completion))
        elif as_json:
            _print_chunks(chat, request)
        else:
            printer = Printer(decorated=sys.stdout.isatty())
            with chat.stream(request) as chunks:
                whole = printer.stream(chunks)
            printer.finish(whole)
            if not whole:
                raise KeyboardInterrupt
    finally:
        chat.close()


def _print_chunks(chat: Chat, request: dict[str, Any]) -> None:
    with chat.stream(request) as chunks:
        for chunk in chunks:
            print(chunk.to_json(), flush=True)


def _run_lines(file: Path, text: str, output: Path, place: Place, fields: dict[str, Any], restart: bool) -> None:
    from chatplan.adapters.batch.running import run_job

    options = _options(place)
    try:
        with batch_file(file, text, fields) as source:
            summary = run_job(source, output, options, restart)
    except KeyboardInterrupt:
        typer.echo("stopped; the same command goes on from here", err=True)
        raise typer.Exit(130) from None
    except RequestError as error:
        if error.param == "--model":  # that it does not load is no fault of the file
            raise EngineError(error.message, param=place.model) from error
        raise
    done = f"{output} is complete already; --restart answers anew" if summary is None else f"{summary} in {output}"
    typer.echo(done, err=True)


def _options(place: Place) -> Options:
    from chatplan.adapters.batch.options import Options
    from chatplan.settings import Settings

    if is_url(place.model):
        raise RequestError("answers one request at a time; a .jsonl needs a checkpoint", param=place.model)
    check_local(place)
    try:
        settings = Settings(**{"batch_size": BATCH_SIZE, **place.settings})
    except ValueError as error:
        raise RequestError(str(error)) from None
    return Options(place.model, place.name, place.dtype, tuple(place.plugins), tuple(place.disable), {}, settings,
                   place.engine, place.device_map)  # fmt: skip


def _output(file: Path, output: Path | None) -> Path:
    if output is None and str(file) == "-":
        raise RequestError("where do the answers go? Standard input has no name to follow", param="--output")
    return file.with_suffix(".answers.jsonl") if output is None else output


def _json(completion: Any) -> str:
    return json.dumps(completion.to_dict(), ensure_ascii=False, indent=2)
