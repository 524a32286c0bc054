"""A plugin in a package of its own is in every place of an environment where it is installed, by its entry point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import chatplan

pytestmark = pytest.mark.dev_only

PACKAGE = Path(__file__).parents[2] / "examples" / "chatplan-top-n-sigma"
LOOK = """
import json, sys
from chatplan import pipeline
from chatplan.adapters.server import ServerSettings, create_app
from chatplan.fields import request_schema

chat = pipeline("chat", sys.argv[1]).chat
hello = [{"role": "user", "content": "Hi"}]

def first(**fields):
    return chat(hello, max_tokens=1, return_token_ids=True, **fields).choices[0].token_ids[0]

drawn = [first(seed=seed, temperature=3.0, top_n_sigma=0.01) for seed in range(8)]
free = [first(seed=seed, temperature=3.0) for seed in range(8)]
effects = chat.explain(hello, top_n_sigma=1.0).to_dict()
openapi = create_app(chat, ServerSettings(no_auth=True)).openapi()
greedy = first(temperature=0)
print(json.dumps({"schema": request_schema(chat.plugins), "explain": effects, "openapi": openapi, "drawn": drawn,
    "free": free, "greedy": greedy}))
"""


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        [str(part) for part in command], capture_output=True, encoding="utf-8", env=os.environ | environment
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that borrows everything from this one and has the plugin installed beside it."""
    folder = tmp_path_factory.mktemp("third_party")
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    site_packages = next(folder.glob("venv/lib/python*/site-packages"))
    borrowed = [Path(pytest.__file__).parents[1], Path(chatplan.__file__).parents[1]]
    (site_packages / "borrowed.pth").write_text("\n".join(map(str, borrowed)), "utf-8")
    made = folder / "venv" / "bin" / "python"
    source = shutil.copytree(PACKAGE, folder / "source")  # a build leaves files beside its sources
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    run(sys.executable, "-m", "pip", "--python", made, "install", *offline, source)
    return made


@pytest.fixture(scope="module")
def seen(python: Path, tiny_folder: Path) -> dict[str, Any]:
    return dict(json.loads(run(python, "-c", LOOK, tiny_folder).splitlines()[-1]))


def test_its_own_tests_pass_where_it_is_installed(python: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    assert "passed" in run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "tests")


def test_the_schema_and_openapi_have_all_that_a_control_needs(seen: dict[str, Any]) -> None:
    field = seen["schema"]["properties"]["top_n_sigma"]
    number = {"type": "number", "minimum": 0, "maximum": 10}
    assert number in field["anyOf"]
    assert (field["default"], field["examples"]) == (0.0, [1.0])
    assert field["description"].startswith("Sample from the tokens")
    assert (field["x-plugins"], field["x-group"]) == (["top_n_sigma"], "top_n_sigma")
    served = seen["openapi"]["components"]["schemas"]["ChatCompletionRequest"]["properties"]["top_n_sigma"]
    assert number in served["anyOf"]


def test_explain_names_the_plugin_and_what_it_does(seen: dict[str, Any]) -> None:
    [effect] = [effect for effect in seen["explain"]["fields"] if effect["field"] == "top_n_sigma"]
    assert effect["plugins"] == ["top_n_sigma"]
    assert effect["became"] == ["processor TopNSigma(n=1.0) at temperature"]


def test_it_changes_what_is_drawn(seen: dict[str, Any]) -> None:
    assert set(seen["drawn"]) == {seen["greedy"]}
    assert len(set(seen["free"])) > 2


def test_the_command_line_lists_it_with_its_version_and_its_page(python: Path) -> None:
    listed = run(python, "-m", "chatplan", "plugins", "--json")
    [plugin] = [plugin for plugin in json.loads(listed) if plugin["name"] == "top_n_sigma"]
    assert plugin["version"] == "0.1.0"
    assert "max - n * sigma" in json.dumps(plugin)
