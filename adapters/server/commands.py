"""``chatplan serve``."""

from __future__ import annotations

import argparse
import difflib
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import typer
from pydantic import ValidationError
from pydantic_settings import CliSettingsSource, SettingsError

from chatplan.adapters.server.settings import ServerSettings
from chatplan.errors import RequestError

__all__ = ["read_settings", "read_settings_of", "run"]

_ABOUT = """Serve a model over HTTP, with the API of OpenAI and vLLM.

Each setting is a flag, a variable (--max-queue is CHATPLAN_MAX_QUEUE, --auth.keys-file is CHATPLAN_AUTH__KEYS_FILE),
and a key of the TOML file that --config names (max_queue; keys_file in the table [auth]). Flags win over variables,
and variables over the file. Lists are written a,b; tables as JSON."""


_S = TypeVar("_S", bound=ServerSettings)


def read_settings(arguments: Sequence[str]) -> ServerSettings:
    """The settings that flags, the environment and a file come to.

    Raises:
        SystemExit: after ``--help``.
        RequestError: a flag does not exist.
        ValueError: a setting is not valid, as one line for each.
    """
    return read_settings_of(ServerSettings, "chatplan serve", arguments)


def read_settings_of(kind: type[_S], program: str, arguments: Sequence[str]) -> _S:
    """The same for ``kind``, which may have further settings."""
    parser = _Parser(prog=program, description=_ABOUT, formatter_class=_Help)
    parser.add_argument("MODEL", nargs="?", help="A checkpoint: a name on the hub, or a folder; the same as --model.")
    source: Any = CliSettingsSource(
        kind,
        root_parser=parser,
        cli_kebab_case=True,
        cli_implicit_flags="toggle",  # an argparse flag --no-auth would be the negation of --auth,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_use_class_docs_for_groups=False,
    )
    given = parser.parse_args(list(arguments))
    if given.MODEL is not None:
        given.model = given.MODEL
    delattr(given, "MODEL")  # no setting, and so unknown
    try:
        return kind(_cli_settings_source=source(parsed_args=given))
    except ValidationError as error:
        raise ValueError("\n".join(_line(item) for item in error.errors())) from None
    except SettingsError as error:
        raise ValueError(str(error)) from None


def run(
    arguments: Sequence[str],
    program: str = "chatplan serve",
    listening: Callable[[ServerSettings, int], object] | None = None,
    **fixed: Any,
) -> None:
    """Read the settings, and serve until a signal comes.

    ``fixed`` are settings that hold whatever the arguments say; ``listening`` is told the port when requests are heard.
    """
    from chatplan.adapters.server.logs import configure

    try:
        settings = read_settings_of(ServerSettings, program, arguments).model_copy(update=fixed)
        if settings.model is None and not settings.upstream.urls:
            raise ValueError(f"model: which one? `{program} MODEL`")
        configure(settings)
        code = _serve(settings, listening)
    except ValueError as error:
        raise RequestError("; ".join(str(error).splitlines())) from error
    raise typer.Exit(code)


def _serve(settings: ServerSettings, listening: Callable[[ServerSettings, int], object] | None) -> int:
    # Read when torch is loaded. GNU OpenMP's threads spin 3 ms for work and then sleep; waking them can take as long as
    # they spin, and the pause between two steps is longer than that.
    os.environ.setdefault("GOMP_SPINCOUNT", "60000")
    from chatplan.adapters.server.app import create_app
    from chatplan.adapters.server.loading import check_access, check_place, follow, load_chat, load_plugins
    from chatplan.adapters.server.running import serve

    if settings.tensor_parallel_size > 1 and int(os.environ.get("RANK", "0")) > 0:
        follow(settings)
    plugins = load_plugins(settings)
    check_access(settings, plugins)
    check_place(settings)
    app = create_app(lambda: load_chat(settings, plugins), settings)
    return serve(app) if listening is None else serve(app, partial(listening, settings))


def _line(item: Any) -> str:
    name = ".".join(str(step) for step in item["loc"])
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, as all commands do."""

    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        unknown = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
        close = [match for word in unknown for match in difflib.get_close_matches(word, flags, 1)]
        hint = f"; did you mean {', '.join(close)}?" if close and message.startswith("unrecognized") else ""
        raise RequestError(f"{message}{hint}; try `{self.prog} --help`")


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=34, width=100)
