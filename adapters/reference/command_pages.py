"""The page of every command, read from the command line's own description of itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from chatplan.adapters.reference.markdown import block, table

__all__ = ["commands_page"]


def commands_page() -> str:
    """Each command with its usage, arguments and options."""
    import typer.main

    from chatplan.adapters.cli import app

    root: Any = typer.main.get_command(app)
    parts = ["# Every command\n", (root.help or "").strip().partition("\n")[0] + "\n"]
    return "\n".join([*parts, *(_section(path, command) for path, command in _commands(root, "chatplan"))])


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """``command`` and those below it, with what is typed for each."""
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        if not inner.hidden:
            yield from _commands(inner, f"{path} {name}")


def _section(path: str, command: Any) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    about = "" if path == "chatplan" else (command.help or "").replace("``", "`").strip() + "\n"
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [(f"`{' '.join(record[0].split())}`", record[1]) for record in records if record]
    more = "The settings: [settings of the server](server_settings.md).\n" if path == "chatplan serve" else ""
    return "\n".join(
        [f"## {path}\n", block("text", usage), about, table(("argument or option", "meaning"), rows), more]
    )
