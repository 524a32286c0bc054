"""The command ``chatplan bench``."""

from __future__ import annotations

import asyncio
import json
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chatplan.errors import EngineError, RequestError

if TYPE_CHECKING:
    from chatplan.adapters.bench.load import Level, Plan
    from chatplan.adapters.bench.targets import Target

__all__ = ["bench"]

_MOST_CLIENTS = 4096


def bench(
    target: Annotated[str, typer.Argument(metavar="URL|MODEL", help="A server's address, or a checkpoint.")],
    concurrency: Annotated[str, typer.Option(help="How many requests at once: a level of load each.")] = "1,2,4,8",
    requests: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Of each level. Default: 3 a client, at least 8.")
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="About so many in each prompt.")] = 128,
    prompt: Annotated[Path | None, typer.Option(help="A text file: the prompt of all requests.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="Most tokens of an answer.")] = 64,
    warm_up: Annotated[int, typer.Option(min=0, max=1000, help="Requests before the first level.")] = 2,
    seconds: Annotated[float, typer.Option(min=0.1, max=86_400, help="The most time of a level.")] = 120.0,
    request: Annotated[Path | None, typer.Option(help="A JSON file with further fields of each request.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="CHATPLAN_API_KEY", show_envvar=True, help="For a server.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="Which model of a server. Default: its first.")] = None,
    engine: Annotated[str, typer.Option(help="For a checkpoint: auto, continuous or generate.")] = "auto",
    dtype: Annotated[str, typer.Option(help="For a checkpoint: auto, float32, bfloat16, float16.")] = "auto",
    output: Annotated[Path | None, typer.Option("--json", help="Write all samples to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write throughput and latency to this PNG file.")] = None,
) -> None:
    """Measure a server or a model: tokens a second and latency, at one level of load after another.

    Ctrl-C shows what was measured until then.
    """
    from chatplan.adapters.bench.load import Plan
    from chatplan.adapters.bench.targets import ModelTarget, is_url

    if plot is not None and find_spec("matplotlib") is None:
        raise RequestError("needs matplotlib; `pip install chatplan[plot]` brings it", param="--plot")
    if is_url(target) and find_spec("openai") is None:
        raise RequestError("a server needs the openai client; `pip install chatplan[remote]` brings it", param="URL")
    _check_kind(target, engine, dtype, model_name, api_key)
    for option, file in (("--json", output), ("--plot", plot)):
        _check_folder(option, file)
    text = None if prompt is None else _read(prompt, "--prompt")
    plan = Plan(_levels(concurrency), requests, _fields(request), text, prompt_tokens, max_tokens, warm_up, seconds)
    run = _Run(plan)
    loaded = None if is_url(target) else ModelTarget.load(target, engine, dtype)
    try:
        asyncio.run(run.measure(loaded, target, model_name, api_key))
    finally:
        run.show(output, plot)
    run.check()


class _Run:
    """What was measured so far."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.levels: list[Level] = []
        self.about: dict[str, str] = {}

    async def measure(self, target: Target | None, url: str, model_name: str | None, api_key: str | None) -> None:
        """Ask ``target``, or the server at ``url``."""
        from rich.console import Console
        from rich.progress import Progress

        from chatplan.adapters.bench.load import sweep
        from chatplan.adapters.bench.targets import ServerTarget

        target = target or await ServerTarget.connect(url, model_name, api_key, self.plan.seconds)
        self.about = target.about
        total = sum(map(self.plan.count, self.plan.concurrency))
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("measuring", total=total)
            try:
                await sweep(target, self.plan, self.levels, lambda level: progress.advance(task))
            finally:
                await target.close()

    def show(self, output: Path | None, plot: Path | None) -> None:
        """Print the table and write the files, unless nothing was measured."""
        from rich.console import Console

        from chatplan.adapters.bench.showing import as_json, as_table, errors_of, write_plot

        levels = [level for level in self.levels if level.samples]
        if not levels:
            return
        Console(width=max(Console().width, 100)).print(as_table(self.about, levels))
        for line in errors_of(levels):
            typer.echo(line)
        if output is not None:
            output.write_text(as_json(self._all_about(), levels), "utf-8")
        if plot is not None:
            write_plot(plot, self.about, levels)

    def check(self) -> None:
        """Raises :class:`EngineError` when there was no answer at all."""
        errors = [sample.error for level in self.levels for sample in level.samples]
        if errors and None not in errors:
            raise EngineError(f"none of {len(errors)} requests was answered; the first: {errors[0]}")

    def _all_about(self) -> dict[str, Any]:
        packages = {name: version(name) for name in ("chatplan", "torch", "transformers")}
        example = {**self.plan.body("example"), "messages": "left out"}
        return {**self.about, "packages": packages, "request": example, "prompt_tokens_wanted": self.plan.prompt_tokens}


def _levels(given: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in given.split(","))
    except ValueError:
        found = ()
    if not found or not all(1 <= clients <= _MOST_CLIENTS for clients in found):
        raise RequestError(
            f"should be numbers from 1 to {_MOST_CLIENTS} with commas, as 1,2,4; got {given!r}", param="--concurrency"
        )
    return found


def _fields(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        found = json.loads(_read(file, "--request"))
    except ValueError as error:
        raise RequestError(f"{file} is not JSON: {error}", param="--request") from error
    if not isinstance(found, dict):
        raise RequestError(f"{file} should hold an object of request fields", param="--request")
    return found


def _read(file: Path, option: str) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(
            f"{file} cannot be read: {getattr(error, 'strerror', None) or error}", param=option
        ) from error


def _check_kind(target: str, engine: str, dtype: str, model_name: str | None, api_key: str | None) -> None:
    """What is for a server says nothing to a checkpoint, and the other way round."""
    from chatplan.adapters.bench.targets import is_url

    if is_url(target):
        wrong, why = {"--engine": engine != "auto", "--dtype": dtype != "auto"}, "a server has its own"
    else:
        from_flag = api_key is not None and "CHATPLAN_API_KEY" not in os.environ
        wrong, why = {"--model-name": model_name is not None, "--api-key": from_flag}, "is for a server"
    for option in wrong:
        if wrong[option]:
            raise RequestError(why, param=option)


def _check_folder(option: str, file: Path | None) -> None:
    """Now, and not when all is measured."""
    if file is not None and (file.is_dir() or not file.absolute().parent.is_dir()):
        raise RequestError(f"{file} cannot be written: it is a folder, or its folder is not there", param=option)
