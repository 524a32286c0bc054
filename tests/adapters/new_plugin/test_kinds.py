"""What is written for each type of field: it is a plugin that does what its own tests say. Nothing is installed."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatplan import Chat, Plugins, RequestError
from chatplan.adapters.new_plugin.kinds import Kind
from chatplan.adapters.new_plugin.naming import Names
from chatplan.adapters.new_plugin.writing import write_package

SCHEMAS = {
    Kind.float: {"type": "number", "minimum": -30.0, "maximum": 30.0},
    Kind.int: {"type": "integer", "minimum": 0, "maximum": 30},
    Kind.bool: {"type": "boolean"},
    Kind.str: {"type": "string", "maxLength": 52},
}
DEFAULTS = {Kind.float: 0.0, Kind.int: 0, Kind.bool: False, Kind.str: ""}


@pytest.fixture(params=Kind, ids=lambda kind: kind.value)
def kind(request: pytest.FixtureRequest) -> Kind:
    return Kind(request.param)


@pytest.fixture
def names(kind: Kind) -> Names:
    return Names.of(f"quick-{kind.value}", "loudness")


@pytest.fixture
def folder(tmp_path: Path, names: Names, kind: Kind) -> Path:
    write_package(tmp_path, names, kind)
    return tmp_path


@pytest.fixture
def plugin(folder: Path, names: Names, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(folder / "src"))
    monkeypatch.delitem(sys.modules, names.module, raising=False)
    return importlib.import_module(names.module)


def test_its_own_tests_pass(
    plugin: ModuleType, folder: Path, names: Names, new_chat: Callable[..., Chat], monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = runpy.run_path(str(folder / "tests" / f"test_{names.plugin}.py"))
    chat = new_chat(plugins=[plugin])
    ran = [test(chat) for name, test in tests.items() if name.startswith("test_") and "chat" in test.__annotations__]
    assert len(ran) == 4


def test_the_field_has_type_range_and_meaning(plugin: ModuleType, names: Names, kind: Kind) -> None:
    schema: dict[str, Any] = Plugins([plugin]).request_type.model_json_schema()["properties"]["loudness"]
    assert SCHEMAS[kind] in schema["anyOf"]
    assert schema["default"] == DEFAULTS[kind]
    assert len(schema["description"].split()) > 3
    assert len(schema["examples"]) == 1


def test_names_are_those_that_follow_from_one(folder: Path, plugin: ModuleType, names: Names) -> None:
    about = (folder / "pyproject.toml").read_text("utf-8")
    assert f'name = "{names.package}"' in about
    assert f'{names.plugin} = "{names.module}"' in about
    assert plugin.name == names.plugin
    assert hasattr(plugin, names.processor)


def test_a_name_of_an_installed_plugin_is_for_the_one_who_writes_it_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint, EntryPoints

    there = EntryPoints([EntryPoint("mine", "mine", "chatplan")])
    monkeypatch.setattr(
        "importlib.metadata.entry_points", lambda group: there if group == "chatplan" else EntryPoints()
    )
    with pytest.raises(RequestError, match="a plugin called 'mine' is installed") as caught:
        Names.of("mine")
    assert caught.value.param == "NAME"
    assert Names.of("mine", again=True).plugin == "mine"
