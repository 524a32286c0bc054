"""Errors of all commands: one line on standard error, and the exit code."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from chatplan.errors import ChatplanError, PluginError, RequestError, TooLargeError

__all__ = ["FAILED", "INTERRUPTED", "WRONG", "Commands", "exit_code", "one_line", "report"]

FAILED, WRONG, INTERRUPTED = 1, 2, 130
"""The work failed, or nobody reads the output any more; wrong usage or a refused request; Ctrl-C."""

# typer brings click's classes under names of its own, or click itself, as its version wants.
_UsageError: Any = typer.BadParameter.__mro__[1]
_ClickError: Any = _UsageError.__mro__[1]


class Commands(TyperGroup):
    """The commands, whose errors are told in one line wherever they are raised."""

    def invoke(self, ctx: Any) -> Any:
        with one_line(debug=bool(ctx.params.get("debug"))):
            answer = super().invoke(ctx)
            sys.stdout.flush()  # so that a closed or full output is found here, and not when Python has gone
            return answer

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        try:
            with one_line():
                code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
                sys.stdout.flush()
        except typer.Exit as leaving:
            code = leaving.exit_code
        sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def one_line(debug: bool = False) -> Iterator[None]:
    """Tell what is raised in one line, and leave with :class:`typer.Exit`; ``debug`` shows the trace before it."""
    try:
        yield
    except typer.Exit:
        raise
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        raise typer.Exit(report(error)) from None


def report(error: BaseException) -> int:
    """Print the line for ``error``; returns the exit code."""
    if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        return _leave_output()
    if type(error).__name__ == "NoArgsIsHelpError":  # the help has been printed, or is the message
        error.show()  # type: ignore[attr-defined]
        return WRONG
    with suppress(OSError):
        print(_line(error), file=sys.stderr, flush=True)
    return exit_code(error)


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ended with ``error``."""
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return INTERRUPTED
    return WRONG if isinstance(error, (_ClickError, RequestError, PluginError, TooLargeError)) else FAILED


def _line(error: BaseException) -> str:
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return "stopped"
    return f"error: {_message(error)}"


def _message(error: BaseException) -> str:
    if isinstance(error, ChatplanError):
        return str(error)
    if isinstance(error, _ClickError):
        return _usage(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {' '.join(str(error).split())}; `chatplan --debug …` shows where"


def _usage(error: Any) -> str:
    """What typer says in a box, and where help is."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    message = message[:1].lower() + message[1:].replace(". Did you mean", "; did you mean")
    context = getattr(error, "ctx", None)
    return f"{message}; try `{context.command_path} --help`" if context is not None else message


def _leave_output() -> int:
    """Python would try to write the rest when it ends, and complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return FAILED
