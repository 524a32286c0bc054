"""The files of a new plugin package."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

import chatplan
from chatplan.adapters.new_plugin.kinds import EFFECTS, Kind
from chatplan.adapters.new_plugin.naming import Names
from chatplan.errors import RequestError

__all__ = ["render_package", "write_package"]

FILES = {
    "pyproject.toml": "pyproject.toml.j2",
    "README.md": "README.md.j2",
    ".gitignore": "gitignore.j2",
    "src/{module}/__init__.py": "plugin.py.j2",
    "src/{module}/py.typed": "py.typed.j2",
    "tests/conftest.py": "conftest.py.j2",
    "tests/test_{plugin}.py": "test.py.j2",
}


def render_package(names: Names, kind: Kind = Kind.float) -> dict[str, str]:
    """The text of each file, by its path in the package."""
    about = {"names": names, "kind": kind.value, "effect": EFFECTS[kind], "version": chatplan.__version__}
    return {
        path.format(module=names.module, plugin=names.plugin): _templates().get_template(template).render(**about)
        for path, template in FILES.items()
    }


def write_package(folder: Path, names: Names, kind: Kind = Kind.float, force: bool = False) -> list[Path]:
    """Write the package into ``folder``, which may exist if it is empty; returns the files.

    With ``force``, files of the same names are replaced, and others stay.

    Raises:
        RequestError: the folder has something in it, or cannot be written to.
    """
    try:
        if not force and (folder.is_file() or (folder.is_dir() and any(folder.iterdir()))):
            raise RequestError(f"{folder} is there already; --force replaces its files", param="NAME")
        written = []
        for path, text in render_package(names, kind).items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
            written.append(file)
    except OSError as error:
        raise RequestError(f"{folder} cannot be written: {error.strerror or error}", param="NAME") from error
    return written


@lru_cache(maxsize=1)
def _templates() -> Environment:
    loader = PackageLoader("chatplan.adapters.new_plugin")
    # What is rendered is Python and TOML, of names that were checked: there is nothing to escape.
    return Environment(
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
