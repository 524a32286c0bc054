"""The built wheel on each Python that is here: it installs by its own metadata, and its light half runs without torch.

What needs PyTorch is only compiled there; the whole suite runs on one version.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
Run = Callable[..., str]
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
HEAVY = {"torch", "transformers", "accelerate"}
CHECK = """
import importlib, json, pkgutil, sys
import chatplan
from chatplan.request import parse_request
from chatplan.errors import RequestError
request = parse_request({"messages": [{"role": "user", "content": "Hi"}], "top_k": 3})
try:
    parse_request({"messages": [], "temperature": -1})
except RequestError as error:
    refused = str(error)
missing = {}
for module in pkgutil.walk_packages(chatplan.__path__, "chatplan.", onerror=lambda name: None):
    if module.name.endswith("__main__"):
        continue
    try:
        importlib.import_module(module.name)
    except ImportError as error:
        missing[module.name] = error.name or str(error)
print(json.dumps({"version": chatplan.__version__, "top_k": request.top_k, "refused": refused, "missing": missing}))
"""


def interpreters() -> Iterator[tuple[str, str]]:
    """Each version with the interpreter that answers to it, on the path or among pyenv's."""
    for version in VERSIONS:
        pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
        places = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
        if version == "{}.{}".format(*sys.version_info):
            places = [sys.executable]
        for place in filter(None, places):
            asked = subprocess.run([str(place), "--version"], capture_output=True, text=True)
            if asked.returncode == 0 and f"Python {version}." in asked.stdout:
                yield version, str(place)
                break


@pytest.fixture
def wheel(dist: Path) -> Path:
    return next(dist.glob("*.whl"))


def light_requirements() -> list[str]:
    """What the package requires, but for the packages of gigabytes."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", "utf-8")
    wanted = config["options"]["install_requires"].split()
    return [line for line in wanted if Requirement(line).name not in HEAVY]


@pytest.mark.slow
@pytest.mark.dev_only
@pytest.mark.parametrize(("version", "python"), list(interpreters()), ids=lambda value: Path(value).name)
def test_the_wheel_installs_and_its_light_half_runs(
    version: str, python: str, wheel: Path, run: Run, tmp_path: Path
) -> None:
    run(python, "-m", "venv", tmp_path / "venv")
    fresh = tmp_path / "venv" / "bin" / "python"
    pip = (fresh, "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, *light_requirements())
    run(*pip, "--no-deps", wheel)
    found = json.loads(run(fresh, "-c", CHECK, cwd=tmp_path))
    assert (found["version"], found["top_k"]) == (wheel.name.split("-")[1], 3)
    assert found["refused"].startswith("messages: ")
    assert "chatplan.chat" not in found["missing"]
    assert not [name for name in found["missing"].values() if name.startswith("chatplan")]
    (installed,) = fresh.parents[1].glob("lib/*/site-packages/chatplan")
    run(fresh, "-W", "error", "-m", "compileall", "-q", "-f", installed)
    assert found["version"] in run(fresh.parent / "chatplan", "--version", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.dev_only
def test_the_public_types_are_complete(
    wheel: Path, run: Run, borrowing_venv: Callable[[Path], Path], tmp_path: Path
) -> None:
    """As pyright's ``--verifytypes`` counts them; what other packages leave unknown is theirs."""
    python = borrowing_venv(tmp_path / "venv")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", wheel)
    pyright = Path(sys.executable).with_name("pyright")
    asked = subprocess.run(
        [str(pyright), "--verifytypes", "chatplan", "--ignoreexternal", "--outputjson"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}"},
    )
    found = json.loads(asked.stdout)["typeCompleteness"]
    unknown = [item["name"] for item in found["symbols"] if item["isExported"] and not item["isTypeKnown"]]
    assert found["exportedSymbolCounts"]["withKnownType"] > 1000
    assert unknown == []
    assert found["completenessScore"] == 1
