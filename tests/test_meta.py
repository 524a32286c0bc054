"""What the pieces promise about each other: fields and owners, hooks and their documents, names, the README."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import chatplan
from chatplan import hookspecs
from chatplan.manager import BUILTINS, Plugins
from chatplan.request import ChatCompletionRequest

ROOT = Path(__file__).parents[1]
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
NOT_YET: set[str] = set()
"""Fields that no built-in plugin answers for yet. A plugin that does takes its fields out of this list."""

HOOKS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, "chatplan_spec")
}
IMPLEMENTATIONS = [
    pytest.param(hook, getattr(module, hook), id=f"{module.__name__.rpartition('.')[2]}.{hook}")
    for module in map(importlib.import_module, BUILTINS)
    for hook in HOOKS
    if hasattr(module, hook)
]


# --- fields -----------------------------------------------------------------------------------------------------------


def test_every_field_has_exactly_one_owner_or_none_yet() -> None:
    owners = Plugins(installed=False).fields
    assert {name: found for name, found in owners.items() if len(found) != 1} == {}
    assert set(ChatCompletionRequest.model_fields) - set(owners) == NOT_YET
    assert set(owners) <= set(ChatCompletionRequest.model_fields)


def test_every_built_in_plugin_does_something_and_says_what() -> None:
    plugins = Plugins(installed=False)
    assert all(plugins.hooks_of(name) for name in plugins.names)
    assert all(importlib.import_module(dotted).__doc__ for dotted in BUILTINS)


def test_every_module_of_hooks_is_a_built_in_plugin() -> None:
    files = {path.stem for path in (ROOT / "hooks").glob("*.py")} - {"__init__"}
    assert files == {dotted.rpartition(".")[2] for dotted in BUILTINS}


# --- hooks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_explained(hook: str) -> None:
    text = inspect.getdoc(HOOKS[hook]) or ""
    assert len(text.split()) >= 10
    assert text.endswith((".", "``"))


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_in_the_guide_with_its_arguments(hook: str) -> None:
    signature = str(inspect.signature(HOOKS[hook])).replace("'", "")
    assert f"## {hook}{signature}\n" in (ROOT / "docs" / "hooks.md").read_text("utf-8")


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_implemented_in_some_test(hook: str) -> None:
    used = re.compile(rf"\bdef {hook}\(|\b{hook}=|\"{hook}\", ")
    tests = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    assert any(used.search(path.read_text("utf-8")) for path in tests)


@pytest.mark.parametrize(("hook", "function"), IMPLEMENTATIONS)
def test_a_built_in_implementation_has_the_types_of_its_hook(hook: str, function: Callable[..., Any]) -> None:
    wanted = inspect.signature(HOOKS[hook])
    found = inspect.signature(function)
    assert found.return_annotation == wanted.return_annotation
    assert [str(found.parameters[name]) for name in found.parameters] == [
        str(wanted.parameters[name]) for name in wanted.parameters if name in found.parameters
    ]


@pytest.mark.parametrize(("hook", "function"), IMPLEMENTATIONS)
def test_a_built_in_implementation_is_marked(hook: str, function: Callable[..., Any]) -> None:
    assert hasattr(function, "chatplan_impl")


# --- the front door ---------------------------------------------------------------------------------------------------


def test_every_name_of_the_package_can_be_imported() -> None:
    assert len(set(chatplan.__all__)) == len(chatplan.__all__)
    for name in chatplan.__all__:
        value = getattr(chatplan, name)
        home = chatplan._HOME_OF.get(name)
        assert home is None or getattr(importlib.import_module(home), name) is value
    assert set(chatplan.__all__) <= set(dir(chatplan))
    with pytest.raises(AttributeError, match="no attribute 'no_such_name'"):
        _ = chatplan.no_such_name


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "plugin" / "__init__.py").read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    seen = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == chatplan._HOME_OF
    assert set(seen) | {"__version__"} == set(chatplan.__all__)


@pytest.mark.parametrize("name", [name for name in chatplan.__all__ if not name.startswith("_")])
def test_what_is_public_is_explained(name: str) -> None:
    assert inspect.getdoc(getattr(chatplan, name))


# --- the README -------------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A block of Python, whether it is to be run, and what it is said to print."""

    source: str
    run: bool
    prints: str | None


def readme() -> Iterator[Block]:
    text = (ROOT / "README.md").read_text("utf-8")
    pattern = r"(<!-- not run -->\s*)?```python\n(.*?)```\n(?:\s*```text\n(.*?)```\n)?"
    for skip, source, prints in re.findall(pattern, text, flags=re.DOTALL):
        yield Block(source, not skip, prints or None)


def test_the_readme_shows_code_that_runs() -> None:
    blocks = list(readme())
    assert blocks
    assert len([block for block in blocks if not block.run]) <= 2
    for block in blocks:
        ast.parse(block.source)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.dev_only
def test_the_readme_tells_the_truth(model_path: str) -> None:
    namespace: dict[str, Any] = {}
    for block in filter(lambda block: block.run, readme()):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            source = block.source.replace(HUB_NAME, model_path)
            exec(compile(source, "README.md", "exec", dont_inherit=True), namespace)
        if block.prints is not None:
            assert printed.getvalue().replace(model_path, HUB_NAME) == block.prints
