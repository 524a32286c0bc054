"""The command line: what is printed, and one line instead of a traceback."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from transformers import LlamaConfig
from typer.testing import CliRunner, Result

import chatplan
from chatplan.adapters.cli import app
from chatplan.standin import stand_in

HI = [{"role": "user", "content": "Hi"}]
PLUGIN = """
from chatplan.hookspecs import hookimpl

@hookimpl
def request_fields():
    return {"shout": float}
"""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"messages": HI, "seed": 7, "frequency_penalty": 0.5, "request_id": "r-1"}), "utf-8")
    return path


@pytest.fixture
def shouting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The dotted name of a plugin that adds the field ``shout``."""
    (tmp_path / "shouting_plugin.py").write_text(PLUGIN, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shouting_plugin", raising=False)
    return "shouting_plugin"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint without weights: the command reads none."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tokenizer: Any = stand_in().tokenizer
    tokenizer.save_pretrained(folder)
    LlamaConfig(vocab_size=300, max_position_embeddings=99, eos_token_id=257).save_pretrained(folder)
    return folder


def run(*arguments: Any, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)


def printed(*arguments: Any, stdin: str | None = None) -> str:
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: Any, stdin: str | None = None) -> str:
    """The only line of output of a command that ends with status 2."""
    result = run(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


def row(table: str, name: str) -> str:
    (found,) = (line for line in table.splitlines() if f" {name} " in line)
    return found


# --- explain ----------------------------------------------------------------------------------------------------------


def test_the_table(request_file: Path) -> None:
    table = printed("explain", request_file)
    assert "r-1" in table
    assert all(text in row(table, "seed") for text in ("7", "sampling", "GenerationConfig seed=7", "all"))
    assert all(text in row(table, "frequency_penalty") for text in ("0.5", "penalties", "frequency=0.5"))
    assert '[{"role": "user", "content": "Hi"}]' in row(table, "messages")
    assert "(default)" in row(table, "Temperature(temperature=0.7)")
    beams = json.dumps({"messages": HI, "use_beam_search": True, "temperature": 0, "best_of": 2})
    assert "all but " in row(printed("explain", "-", stdin=beams), "use_beam_search")
    assert "without a model" in table


def test_json(request_file: Path) -> None:
    data = json.loads(printed("explain", request_file, "--json"))
    assert {item["field"]: item["value"] for item in data["fields"]} == {
        "messages": HI,
        "seed": 7,
        "frequency_penalty": 0.5,
        "request_id": "r-1",
    }
    assert data["plan"]["generation_config"]["seed"] == 7


def test_text_of_any_kind_is_printed_as_it_is() -> None:
    request = json.dumps({"messages": [{"role": "user", "content": "[bold]é[/bold]"}], "stop": ["[/]"]})
    table = printed("explain", "-", stdin=request)
    assert "[bold]é[/bold]" in table
    assert "[/]" in row(table, "stop")
    assert "é" in printed("explain", "-", "--json", stdin=request)


def test_a_long_value_is_cut_in_the_table_only() -> None:
    request = json.dumps({"messages": HI, "user": "u" * 500})
    table = printed("explain", "-", stdin=request)
    assert "u" * 57 not in table
    assert f'"{"u" * 56}...' in table
    assert '"' + "u" * 58 + '"' in printed("explain", "-", stdin=json.dumps({"messages": HI, "user": "u" * 58}))
    assert "u" * 500 in printed("explain", "-", "--json", stdin=request)


def test_the_request_may_name_any_model_when_there_is_none() -> None:
    request = json.dumps({"messages": HI, "model": "org/some"})
    assert json.loads(printed("explain", "-", "--json", stdin=request))["plan"]["model"] == "org/some"


def test_a_checkpoint(checkpoint: Path, request_file: Path) -> None:
    plan = json.loads(printed("explain", request_file, "--json", "--model", checkpoint))["plan"]
    assert plan["model"] == str(checkpoint)
    assert plan["generation_config"]["max_new_tokens"] == 99 - len(plan["prompt"]["token_ids"])
    table = printed("explain", request_file, "--model", checkpoint)
    assert "without a model" not in table


def test_a_checkpoints_limits_hold(checkpoint: Path) -> None:
    request = json.dumps({"messages": HI, "stop_token_ids": [300]})
    assert "stop_token_ids: token id 300" in refused("explain", "-", "--model", checkpoint, stdin=request)
    assert "max_tokens" in refused(
        "explain", "-", "--model", checkpoint, stdin=json.dumps({"messages": HI, "max_tokens": 99})
    )


def test_plugins(shouting: str) -> None:
    request = json.dumps({"messages": HI, "shout": 0.5})
    assert "shouting_plugin" in row(printed("explain", "-", "--plugin", shouting, stdin=request), "shout")
    assert "shout: " in refused("explain", "-", stdin=request)
    assert "shout: " in refused("explain", "-", "--plugin", shouting, "--disable", shouting, stdin=request)


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["-"], "{", "-: is not JSON"),
        (["-"], "", "-: is not JSON"),
        (["-"], "[1]", "should be an object"),
        (["-"], "{}", "messages: is required"),
        (["-"], json.dumps({"messages": HI, "temperature": -1}), "temperature: "),
        (["-"], json.dumps({"messages": HI, "priority": 1}), "priority: "),
        (["-"], json.dumps({"messages": HI, "stop": "a\nb", "top_p": "x\ny"}), "top_p: "),
        (["no/such/file.json"], None, "no/such/file.json: cannot be read"),
        (["."], None, "cannot be read"),
        (["-", "--plugin", "no.such.plugin"], json.dumps({"messages": HI}), "no.such.plugin"),
        (["-", "--disable", "nothing"], json.dumps({"messages": HI}), "disable names nothing"),
    ],
)
def test_what_cannot_be_explained_is_one_line(
    arguments: list[str], stdin: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert message in refused("explain", *arguments, stdin=stdin)


def test_a_folder_that_is_no_checkpoint(tmp_path: Path, request_file: Path) -> None:
    result = CliRunner().invoke(app, ["explain", str(request_file), "--model", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {tmp_path}: no model is there")
    for place in ("/no/such", "./no", "../no", "~/no/such"):
        result = CliRunner().invoke(app, ["explain", str(request_file), "--model", place])
        assert (result.exit_code, result.stderr) == (1, f"error: {place}: there is no such folder\n")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused("explain", tmp_path / "x.json")


# --- schema -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "fields"),
    [
        ([], {"messages", "temperature", "n"}),
        (["request"], {"messages", "temperature", "n"}),
        (["response"], {"id", "choices", "usage"}),
        (["chunk"], {"id", "choices", "object"}),
    ],
)
def test_schemas(shape: list[str], fields: set[str]) -> None:
    schema = json.loads(printed("schema", *shape))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert fields <= set(schema["properties"])


def test_the_three_schemas_differ() -> None:
    titles = [json.loads(printed("schema", shape))["title"] for shape in ("request", "response", "chunk")]
    assert titles == ["ChatCompletionRequest", "ChatCompletion", "ChatCompletionChunk"]


def test_a_plugins_fields_are_in_the_schema(shouting: str) -> None:
    assert "shout" in json.loads(printed("schema", "request", "--plugin", shouting))["properties"]
    assert "shout" not in json.loads(printed("schema", "request"))["properties"]
    assert "no.such" in refused("schema", "--plugin", "no.such")


def test_another_shape_is_refused() -> None:
    result = run("schema", "reply")
    assert result.exit_code == 2
    assert "reply" in result.stderr


# --- the command itself -----------------------------------------------------------------------------------------------


def test_version() -> None:
    assert printed("--version") == f"{chatplan.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"], ["schema", "--help"]])
def test_help(arguments: list[str]) -> None:
    assert "Usage" in printed(*arguments)


def test_without_a_command_there_is_help() -> None:
    assert all(name in run().output for name in ("explain", "schema"))


def test_the_installed_command(tmp_path: Path) -> None:
    command = shutil.which("chatplan", path=str(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run(
        [command, "explain", str(tmp_path / "none.json")], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
