"""New plugin packages, installed as their users would: their tests pass, and chatplan knows their fields."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import chatplan
from chatplan.adapters.new_plugin.kinds import Kind
from chatplan.adapters.new_plugin.naming import Names
from chatplan.adapters.new_plugin.writing import write_package

pytestmark = [pytest.mark.slow, pytest.mark.dev_only, pytest.mark.timeout(300)]
ROOT = Path(__file__).parents[3]
KINDS = {f"new-{kind.value}": kind for kind in Kind}
LONG = "a-name-that-is-very-nearly-as-long-as-it-may-be"


class Installed:
    """Packages and the environment that they are installed in."""

    def __init__(self, home: Path) -> None:
        self.home = home
        run(sys.executable, "-m", "venv", "--without-pip", home / "venv")
        self.python = home / "venv" / "bin" / "python"
        # Everything else is borrowed from this environment, and chatplan from where it is.
        borrowed = [Path(pytest.__file__).parents[1], Path(chatplan.__file__).parents[1]]
        site_packages = next((home / "venv").glob("lib/python*/site-packages"))
        (site_packages / "borrowed.pth").write_text("\n".join(map(str, borrowed)), "utf-8")

    def install(self, *names: str) -> None:
        pip = (sys.executable, "-m", "pip", "--python", self.python, "install", "--no-deps", "--no-build-isolation")
        run(*pip, *(self.home / name for name in names))

    def chatplan(self, *arguments: str) -> str:
        return run(self.python, "-m", "chatplan", *arguments, cwd=self.home)

    def field(self, name: str) -> dict[str, Any]:
        """What the schema of the request says of a field."""
        found: dict[str, Any] = json.loads(self.chatplan("schema"))["properties"][name]
        return found

    def explained(self, **fields: Any) -> dict[str, Any]:
        """What ``explain`` says of each field."""
        request = {"messages": [{"role": "user", "content": "Hi"}], **fields}
        (self.home / "request.json").write_text(json.dumps(request), "utf-8")
        said = json.loads(self.chatplan("explain", "request.json", "--json"))
        return {item["field"]: item for item in said["fields"]}


def run(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    words = [str(part) for part in command]
    result = subprocess.run(words, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=250)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A package of each type, and one with a long name."""
    made = Installed(tmp_path_factory.mktemp("plugins"))
    for name, kind in {**KINDS, LONG: Kind.float}.items():
        write_package(made.home / name, Names.of(name), kind)
    made.install(*KINDS, LONG)
    return made


def test_the_tests_of_a_new_package_pass(installed: Installed) -> None:
    folders = [f"{name}/tests" for name in KINDS]
    told = run(installed.python, "-m", "pytest", "-q", "--import-mode=importlib", *folders, cwd=installed.home)
    assert f"{6 * len(KINDS)} passed" in told


@pytest.mark.parametrize("name", [*KINDS, LONG])
def test_a_new_package_is_clean(installed: Installed, name: str) -> None:
    folder = installed.home / name
    run(sys.executable, "-m", "ruff", "check", ".", cwd=folder)
    if name != LONG:
        run(sys.executable, "-m", "ruff", "format", "--check", ".", cwd=folder)


def test_a_new_package_has_strict_types(installed: Installed) -> None:
    """By the project's own check, whose cache has the types of all that they import."""
    sources = [installed.home / name / "src" for name in KINDS]
    path = os.pathsep.join(map(str, sources))
    run(sys.executable, "-m", "mypy", "--strict", *sources, installed.home / "new-float" / "tests",
        cwd=ROOT, MYPYPATH=path)  # fmt: skip


def test_installed_plugins_are_known_and_their_fields_described(installed: Installed) -> None:
    names = run(installed.python, "-c", "import chatplan; print(*chatplan.Plugins().names)").split()
    assert {"new_float", "new_int", "new_bool", "new_str"} <= set(names)
    schema = installed.field("new_float")
    assert {"type": "number", "minimum": -30.0, "maximum": 30.0} in schema["anyOf"]
    assert schema["default"] == 0.0
    assert schema["description"]
    assert schema["examples"] == [30.0]
    assert (schema["x-group"], schema["x-plugins"]) == ("new_float", ["new_float"])


def test_an_installed_field_is_explained(installed: Installed) -> None:
    effect = installed.explained(new_str="ab")["new_str"]
    assert effect["plugins"] == ["new_str"]
    assert effect["became"] == ["processor NewStrProcessor(value='ab') at bias"]


def test_ten_lines_add_another_field(installed: Installed) -> None:
    names = Names.of("more")
    folder = installed.home / "more"
    write_package(folder, names)
    module = folder / "src" / names.module / "__init__.py"
    _, entry, hook = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text("utf-8"), flags=re.DOTALL)
    assert len((entry + hook).splitlines()) <= 10
    before, end, after = module.read_text("utf-8").partition("    ),\n}\n")
    module.write_text(f"{before}    ),\n{entry}}}\n{after}\n\n{hook}", "utf-8")
    installed.install("more")
    assert installed.field("no_repeat")["x-plugins"] == ["more"]
    became = installed.explained(no_repeat=3, more=2.0)
    assert became["no_repeat"]["became"] == ["GenerationConfig no_repeat_ngram_size=3"]
    assert became["more"]["became"] == ["processor MoreProcessor(value=2.0) at bias"]
    assert "6 passed" in run(installed.python, "-m", "pytest", "-q", cwd=folder)
    run(sys.executable, "-m", "ruff", "check", ".", cwd=folder)
    assert end
