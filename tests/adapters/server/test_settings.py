"""Settings: where they come from, which wins, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from chatplan import Settings
from chatplan.adapters.cli import app
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.commands import read_settings


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("CHATPLAN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # those that a command sets up


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chatplan.toml"
    path.write_text(
        'port = 1\nmax_queue = 11\nmax_stop = 12\nserved_model_name = ["a", "b"]\n'
        "[defaults]\ntemperature = 0.5\n[auth]\nmax_priority = 3\n",
        "utf-8",
    )
    return path


def test_flags_win_over_variables_and_these_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPLAN_PORT", "2")
    monkeypatch.setenv("CHATPLAN_MAX_QUEUE", "22")
    monkeypatch.setenv("CHATPLAN_AUTH__CONCURRENCY", "4")
    found = read_settings(["some/model", "--config", str(file), "--port", "3"])
    assert (found.model, found.port, found.max_queue, found.chat_settings["max_stop"]) == ("some/model", 3, 22, 12)
    assert (found.served_model_name, found.defaults) == (["a", "b"], {"temperature": 0.5})
    assert (found.auth.max_priority, found.auth.concurrency) == (3, 4)
    assert found.host == "127.0.0.1"


def test_a_variable_names_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATPLAN_CONFIG", str(file))
    monkeypatch.setenv("CHATPLAN_MODEL", "m")
    found = read_settings([])
    assert (found.model, found.port) == ("m", 1)
    assert ServerSettings(port=9).port == 9
    assert ServerSettings().port == 1


@pytest.mark.parametrize("arguments", [["m", "--port", "3"], ["--port", "3", "m"], ["--model", "m", "--port=3"]])
def test_the_model_is_an_argument_or_a_flag(arguments: list[str]) -> None:
    found = read_settings(arguments)
    assert (found.model, found.port) == ("m", 3)


def test_kinds_of_values() -> None:
    found = read_settings(
        ["m", "--no-auth", "--plugins", "a.b,c:D", "--defaults", '{"top_k": 3}', "--total-seconds", "2.5", "--otel"]
    )
    assert (found.no_auth, found.otel, found.log_content) == (True, True, False)
    assert (found.plugins, found.defaults, found.total_seconds) == (["a.b", "c:D"], {"top_k": 3}, 2.5)


def test_all_settings_of_the_model_are_there() -> None:
    assert ServerSettings().chat_settings == dataclasses.asdict(Settings())
    assert read_settings(["m", "--max-logprobs", "-1"]).chat_settings["max_logprobs"] == -1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["m", "--port", "x"], "port: "),
        (["m", "--port", "70000"], "port: "),
        (["m", "--validation-status", "418"], "validation_status: "),
        (["m", "--auth.jwt-issuer", "https://a.example"], "auth: jwt_issuer needs jwt_audience"),
        (["m", "--config", "/nowhere.toml"], "config: there is no file /nowhere.toml"),
        (["m", "--disable", "nobody"], "disable names nobody"),
        (["m", "--plugins", "no.such.module"], "cannot be imported"),
        (["m", "--host", "0.0.0.0"], "chatplan keys create"),
        ([], "model: which one?"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], line: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    (error,) = result.stderr.splitlines()
    assert error.startswith("error: ")
    assert line in error


def test_a_file_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("prot = 3\n", "utf-8")
    with pytest.raises(ValueError, match="prot: Extra inputs are not permitted"):
        read_settings(["m", "--config", str(path)])
    path.write_text("port = \n", "utf-8")
    with pytest.raises(ValueError, match="is not TOML"):
        read_settings(["m", "--config", str(path)])


def test_the_page_lists_every_setting() -> None:
    page = (Path(__file__).parents[3] / "docs" / "server.md").read_text("utf-8")
    own = set(ServerSettings.model_fields) - {item.name for item in dataclasses.fields(Settings)}
    assert [name for name in sorted(own) if f"`{name}`" not in page and f"--{name}" not in page] == []


def test_help_shows_every_setting() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "typer", "chatplan.adapters.cli", "run", "serve", "--help"],
        capture_output=True, text=True, check=True, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip
    for name, field in ServerSettings.model_fields.items():
        flag = name.replace("_", "-")
        assert re.search(rf"^  --(no-)?{flag}\b|^  --{name}\.", result.stdout, re.MULTILINE), name
        assert field.description
    assert "(default: 8000)" in result.stdout
    assert "MODEL" in result.stdout
    refused = CliRunner().invoke(app, ["serve", "m", "--prot", "3"])
    assert refused.exit_code == 2
    assert "--prot" in refused.stderr
