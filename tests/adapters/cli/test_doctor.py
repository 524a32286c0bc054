"""``chatplan doctor`` tries what it reports."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import chatplan


@pytest.fixture(scope="module")
def found(weights: Path) -> dict[str, Any]:
    from typer.testing import CliRunner

    from chatplan.adapters.cli import app

    result = CliRunner().invoke(app, ["doctor", "--json", "--model", str(weights)])
    assert result.exit_code == 0, result.output
    data: dict[str, Any] = json.loads(result.stdout)
    return data


def test_versions_and_devices(found: dict[str, Any]) -> None:
    wanted = {"chatplan": chatplan.__version__, **{name: version(name) for name in ("torch", "transformers", "pluggy")}}
    assert {name: found["versions"][name] for name in wanted} == wanted
    assert found["devices"][-1]["device"] == "cpu"
    assert found["devices"][-1]["memory"] > found["devices"][-1]["free"] > 0


def test_engines_and_backends_are_tried(found: dict[str, Any]) -> None:
    assert found["ok"] is True
    assert found["engines"]["generate"] is None
    assert found["backends"]["guidance"] is None
    for library, name in (("outlines_core", "outlines"), ("xgrammar", "xgrammar")):
        why = found["backends"][name]
        assert why is None if find_spec(library) else f"pip install 'chatplan[{name}]'" in why


@pytest.mark.dev_only
def test_continuous_batching_runs_on_new_transformers(found: dict[str, Any]) -> None:
    assert found["engines"]["continuous"] is None


def test_extras_name_what_is_missing(found: dict[str, Any]) -> None:
    assert found["extras"]["test"] == []
    if not find_spec("text_generation"):
        assert found["extras"]["tgi"] == ["text-generation"]


def test_a_checkpoint_is_looked_at(found: dict[str, Any], weights: Path) -> None:
    about = found["model"]
    assert (about["model"], about["error"]) == (str(weights), None)
    assert (about["context_length"], about["vocab_size"]) == (1024, 300)
    assert about["tool_format"] == "hermes"


def test_a_checkpoint_that_is_none_is_code_1(invoke: Callable[..., Any], tmp_path: Path) -> None:
    result = invoke("doctor", "--model", tmp_path)
    assert result.exit_code == 1
    assert "not ready" in result.stdout
    assert all(word in result.stdout for word in ("engines", "generate", "runs", "grammar backends", "versions"))


def test_without_its_plugin_an_engine_cannot_run(invoke: Callable[..., Any]) -> None:
    result = invoke("doctor", "--json", "--disable", "engines")
    assert result.exit_code == 1
    assert "no plugin offers the engine 'generate'" in json.loads(result.stdout)["engines"]["generate"]
