"""The page of every error."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from chatplan.adapters.reference.markdown import as_markdown, table
from chatplan.errors import ChatplanError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # Python 3.10 has it elsewhere

__all__ = ["error_classes", "errors_page", "further_codes"]


def errors_page() -> str:
    """The tree of errors with status, code and type, and what else ``code`` may say."""
    classes = list(error_classes(ChatplanError))
    rows = [(_indented(cls), str(cls.status), f"`{cls.default_code}`", f"`{cls.type}`") for cls in classes]
    parts = ["# Every error\n", _ABOUT, table(("class", "status", "code", "type"), rows), *map(_section, classes)]
    return "\n".join([*parts, _codes()])


_ABOUT = """Over HTTP, and by `error.to_dict()`, an error is `{"error": {"message", "type", "param", "code"}}`;
`param` is the field that is to blame, or null. When which is raised: [errors](../errors.md).
"""


def error_classes(root: type[ChatplanError]) -> Iterator[type[ChatplanError]]:
    """``root`` and all chatplan's own classes below it, depth first."""
    yield root
    for cls in root.__subclasses__():
        if cls.__module__.startswith("chatplan."):
            yield from error_classes(cls)


def _depth(cls: type[ChatplanError]) -> int:
    return cls.__mro__.index(ChatplanError)


def _indented(cls: type[ChatplanError]) -> str:
    return "&emsp;" * _depth(cls) + f"[`{cls.__name__}`](#{cls.__name__.lower()})"


def _section(cls: type[ChatplanError]) -> str:
    parents = " → ".join(f"`{base.__name__}`" for base in reversed(cls.__mro__[: _depth(cls) + 1]))
    meaning = as_markdown(inspect.getdoc(cls) or "")
    said = f"Status {cls.status}, code `{cls.default_code}`, type `{cls.type}`. {parents}."
    return f"## {cls.__name__}\n\n{meaning}\n{said}\n"


def _codes() -> str:
    rows = [(f"`{code}`", ", ".join(f"`{name}`" for name in names)) for code, names in further_codes().items()]
    about = "Some errors have a `code` that says more than their class:\n"
    return f"## Further codes\n\n{about}\n{table(('code', 'error'), rows)}"


@lru_cache(maxsize=1)
def further_codes() -> Mapping[str, tuple[str, ...]]:
    """The codes that the package's own source gives to errors, and the classes that carry each."""
    found: dict[str, set[str]] = {}
    for source in _sources(files("chatplan")):
        for call in ast.walk(ast.parse(source)):
            for name, code in _raised(call):
                found.setdefault(code, set()).add(name)
    return {code: tuple(sorted(found[code])) for code in sorted(found)}


def _sources(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry.read_text("utf-8")


def _raised(call: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Error"):
        for keyword in call.keywords:
            if keyword.arg == "code" and isinstance(keyword.value, ast.Constant) and keyword.value.value:
                yield ast.unparse(call.func).rpartition(".")[2], str(keyword.value.value)
