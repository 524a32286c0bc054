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
from chatplan import Chat
from chatplan.adapters.cli import checks, doctor, machine


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


def test_engines_elsewhere_are_looked_for_too(found: dict[str, Any]) -> None:
    assert set(found["engines"]) >= {"generate", "continuous", "tensor_parallel", "tgi", "remote"}
    if not find_spec("text_generation"):
        assert "text_generation" in str(found["engines"]["tgi"]) or found["engines"]["tgi"] is None
    assert found["problem"] is None
    assert found["memory"]["memory"] > found["memory"]["free"] > 0


def test_a_checkpoint_is_looked_at(found: dict[str, Any], weights: Path, tiny: Chat) -> None:
    about = found["model"]
    assert (about["model"], about["error"]) == (str(weights), None)
    assert (about["context_length"], about["vocab_size"]) == (1024, 300)
    assert (about["tool_format"], about["reasoning"]) == ("hermes", False)
    assert about["architectures"] == ["LlamaForCausalLM"]
    assert about["prompt_tokens_of_hi"] == len(tiny.plan([{"role": "user", "content": "Hi"}]).prompt.token_ids)


def test_a_checkpoint_that_is_none_is_code_1(
    invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "check_engines", lambda plugins: {"generate": None})
    monkeypatch.setattr(checks, "check_backends", lambda plugins: {"guidance": None})
    result = invoke("doctor", "--model", tmp_path)
    assert result.exit_code == 1
    assert "not ready" in result.stdout
    assert all(word in result.stdout for word in ("engines", "generate", "runs", "grammar backends", "versions"))


def test_without_its_plugin_an_engine_cannot_run(invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_backends", lambda plugins: {"guidance": None})
    result = invoke("doctor", "--json", "--disable", "engines")
    assert result.exit_code == 1
    assert "no plugin offers the engine 'generate'" in json.loads(result.stdout)["engines"]["generate"]


# --- what is found, and how it is told --------------------------------------------------------------------------------


def told(found: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    nothing: dict[str, Any] = {"ok": True, "problem": None, "versions": {}, "memory": {}, "extras": {}}
    doctor._print({**nothing, **found})
    return capsys.readouterr().out


def test_the_tables_tell_what_is_there_and_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = {"versions": {"torch": "2", "pluggy": None}, "extras": {"cli": [], "plot": ["a", "b"]},
             "engines": {"generate": None, "remote": None, "tgi": "no [client]"}, "backends": {"guidance": None},
             "devices": [{"device": "cuda:0", "name": "A", "memory": 3 * 2**30, "free": 2**29},
                         {"device": "mps", "name": "M", "memory": 2**30, "free": None}],
             "model": {"model": "m", "tool_format": None, "reasoning": False}}  # fmt: skip
    lines = [" ".join(line.split()) for line in told(found, capsys).splitlines()]
    assert {"torch 2", "pluggy not installed", "cli installed", "plot missing: a, b", "generate runs",
            "remote can be used", "tgi no [client]", "guidance works", "cuda:0 A; 3.0 GiB, 0.5 GiB free",
            "mps M; 1.0 GiB", "tool_format none", "reasoning False"} <= set(lines)  # fmt: skip
    assert lines[-1] == "ready"


def test_the_last_line_tells_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert told({"ok": False}, capsys).splitlines()[-1] == "not ready: no engine runs here"
    assert told({"ok": False, "model": {"error": "[none]"}}, capsys).splitlines()[-1] == "not ready: [none]"
    broken = {"ok": False, "problem": "ImportError: torch"}
    assert told(broken, capsys).splitlines()[-1] == "nothing can run: ImportError: torch"


def test_a_torch_that_does_not_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise OSError("no\nlibrary")

    monkeypatch.setattr(machine, "devices", broken)
    found = doctor._examine(None, [], [])
    assert (found["ok"], found["problem"]) == (False, "OSError: no library")
    assert "devices" not in found


def test_accelerators_come_before_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    for name, value in {"device_count": 2, "mem_get_info": (1, 2), "get_device_name": "A"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *given, value=value: value)
    found = machine.devices()
    assert [item["device"] for item in found] == ["cuda:0", "cuda:1", "cpu"]
    assert found[1] == {"device": "cuda:1", "name": "A", "memory": 2, "free": 1}


def test_what_an_extra_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from packaging.requirements import Requirement

    wanted = ['torch', 'one; extra == "a"', 'two>=2; extra == "a"', 'three; extra == "b"', 'chatplan[b]; extra == "a"',
              'four; extra == "c"']  # fmt: skip
    there = {"two": "1.5", "four": "3rc1"}
    monkeypatch.setattr(machine, "_requirements", lambda: list(map(Requirement, wanted)))
    monkeypatch.setattr(machine, "_version", there.get)
    assert sorted(machine._missing("a")) == ["one", "three", "two>=2 (is 1.5)"]
    assert list(machine._missing("c")) == []
    assert machine.versions()["torch"] is None


def test_a_trial_is_quiet_and_says_in_a_line_why_it_failed() -> None:
    import logging

    seen = []

    def trial() -> None:
        seen.append(logging.root.manager.disable)
        raise RuntimeError("a\n  b" if len(seen) == 1 else "")

    before = logging.root.manager.disable
    assert [checks._why_not(trial), checks._why_not(trial), checks._why_not(bool)] == ["a b", "RuntimeError", None]
    assert seen == [logging.CRITICAL] * 2
    assert logging.root.manager.disable == before
