"""Who may import whom: hooks and adapters import the core, the core imports neither, a hook never another hook."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("plugin", "hooks", "adapters")
FILES = sorted(path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
FORBIDDEN = {"plugin": ("chatplan.hooks", "chatplan.adapters"), "hooks": ("chatplan.hooks",), "adapters": ()}
# The front door names what it re-exports from an adapter, for type checkers only.
FRONT_DOOR = Path("plugin/__init__.py")


@pytest.mark.parametrize("path", FILES, ids=str)
def test_file_keeps_the_import_rule(path: Path) -> None:
    broken = [name for name in imports(path) if breaks_rule(path.parts[0], name)]
    assert not broken, f"{path} must not import {', '.join(broken)}"


def breaks_rule(folder: str, name: str) -> bool:
    return name.startswith(".") or any(f"{name}.".startswith(f"{other}.") for other in FORBIDDEN[folder])


def imports(path: Path) -> Iterator[str]:
    """What a file imports, by full name; a relative import keeps its dots."""
    for node in nodes(ast.parse((ROOT / path).read_text("utf-8")), path == FRONT_DOOR):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def nodes(tree: ast.AST, skip_types: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if skip_types and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from nodes(child, skip_types)


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("plugin", "chatplan.hooks.stops"),
        ("plugin", "chatplan.adapters"),
        ("hooks", "chatplan.hooks.stops"),
        ("adapters", ".cli"),
    ],
)
def test_rule_is_noticed_when_broken(folder: str, name: str) -> None:
    assert breaks_rule(folder, name)
