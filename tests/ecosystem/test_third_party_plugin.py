"""A plugin in a package of its own is in every place of an environment where it is installed, by its entry point."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import forked
import pytest

pytestmark = [pytest.mark.dev_only, pytest.mark.timeout(400)]

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


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that has the plugin installed."""
    folder = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(PACKAGE, folder / "source")  # a build leaves files beside its sources
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run([*pip, "--target", folder / "packages", source], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "packages"


def run(place: Path, *words: str | Path) -> str:
    """What a program prints that finds the folder's packages beside all others."""
    environment = os.environ | {"PYTHONPATH": str(place)}
    result = forked.run(words, env=environment, capture_output=True, encoding="utf-8", timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


@pytest.fixture(scope="module")
def seen(place: Path, tiny_folder: Path) -> dict[str, Any]:
    return dict(json.loads(run(place, "-c", LOOK, tiny_folder).splitlines()[-1]))


def test_its_own_tests_pass_where_it_is_installed(place: Path, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "tests", tmp_path / "tests")
    assert "passed" in run(place, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path / "tests")


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


def test_the_command_line_lists_it_with_its_version_and_its_page(place: Path) -> None:
    listed = run(place, "-m", "chatplan", "plugins", "--json")
    [plugin] = [plugin for plugin in json.loads(listed) if plugin["name"] == "top_n_sigma"]
    assert plugin["version"] == "0.1.0"
    assert "max - n * sigma" in json.dumps(plugin)
