"""The pages of the settings: those of a model, and those of the server."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from chatplan.adapters.reference.markdown import cell, table
from chatplan.settings import Settings

__all__ = ["model_settings_page", "server_settings_page"]

_HEADS = ("setting", "type", "default", "meaning")


def model_settings_page() -> str:
    """Every field of :class:`chatplan.Settings`."""
    meanings = _meanings(Settings)
    rows = [
        (f"`{it.name}`", str(it.type), f"`{it.default!r}`", meanings[it.name]) for it in dataclasses.fields(Settings)
    ]
    return f"# Settings of a model\n\n{_ABOUT}\n{table(_HEADS, rows)}"


_ABOUT = """They are keyword arguments of `pipeline`, `connect` and `Settings`, options of `chatplan serve` and of
`python -m chatplan.batch`, and decided when a model is loaded.
"""


def _meanings(cls: type) -> dict[str, str]:
    """The ``Attributes:`` of a docstring, by name."""
    text = inspect.getdoc(cls) or ""
    found = re.findall(r"^    (\w+): (.*(?:\n {6,}.*)*)", text, re.MULTILINE)
    return {name: cell(about).replace("``", "`") for name, about in found}


def server_settings_page() -> str:
    """Every setting of ``chatplan serve``: as a flag, as a variable, and as a key of its TOML file."""
    from chatplan.adapters.server.settings import ServerSettings

    rows = [_row(*item) for item in _leaves(ServerSettings)]
    return f"# Settings of the server\n\n{_SERVER}\n{table(('flag', 'variable', *_HEADS[1:]), rows)}"


_SERVER = """Flags of `chatplan serve` win over variables, and variables over the TOML file that `--config` names.
In the file, a setting with a dot is a key of a table: `--auth.keys-file` is `keys_file` in `[auth]`. Lists are
written `a,b`.
"""


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, about in model.model_fields.items():
        inner = about.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, (*path, name))
        else:
            yield (*path, name), about


def _row(path: tuple[str, ...], about: Any) -> tuple[str, ...]:
    flag = "--" + ".".join(path).replace("_", "-")
    variable = "CHATPLAN_" + "__".join(path).upper()
    return f"`{flag}`", f"`{variable}`", _kind(about.annotation), _default(about), about.description or ""


def _kind(annotation: Any) -> str:
    """A type as a table shows it; ``None`` among several is left out, since it only means absent."""
    parts = [part for part in get_args(annotation) if part is not type(None)]
    if get_origin(annotation) in (Union, UnionType):
        return " or ".join(map(_kind, parts))
    if isinstance(annotation, type) and not parts:
        return annotation.__name__
    if all(isinstance(part, (str, int)) for part in parts):
        return ", ".join(f"`{part}`" for part in parts)
    name = getattr(annotation, "__name__", str(annotation))
    return f"{name}[{', '.join(map(_kind, parts))}]"


def _default(about: Any) -> str:
    value = about.get_default(call_default_factory=not about.default_factory_takes_validated_data)
    if value is PydanticUndefined or value is None:
        return ""
    return f"`{json.dumps(value, default=str)}`"
