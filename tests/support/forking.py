"""A program whose own programs of Python are forks, as it is: ``-m forking script.py``, ``-m forking -m module``."""

from __future__ import annotations

import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import forked

PLAIN: Any = subprocess.Popen


def popen(args: Sequence[Any], **given: Any) -> Any:
    """A fork in place of ``python -m module …``, with what we can give one; else what was asked for."""
    arguments = [str(item) for item in args]
    if arguments[0] != sys.executable:
        return PLAIN(args, **given)
    return forked.Popen([item for item in arguments[1:] if item != "-u"], **given)


def main() -> None:
    del sys.argv[0]
    if forked.FORKS:
        for module in list(sys.modules.values()):
            if vars(module).get("Popen") is PLAIN and module is not forked:
                vars(module)["Popen"] = popen
    if sys.argv[0] == "-m":
        del sys.argv[0]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(sys.argv[0]).parent.absolute()))
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
