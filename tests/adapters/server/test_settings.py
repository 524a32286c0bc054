"""Settings: where they come from, which wins, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from chatplan import Plugins, RequestError, Settings
from chatplan.adapters.cli import app
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.commands import read_settings
from chatplan.adapters.server.loading import check_place, load_chat, load_plugins
from chatplan.adapters.weights import likely_device
from chatplan.errors import EngineError
from chatplan.standin import stand_in


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


DEFAULTS: dict[str, Any] = {
    "config": None, "model": None, "served_model_name": [], "plugins": [], "disable": [], "engine": "auto",
    "dtype": "auto", "device": None, "device_map": None, "max_memory": {}, "offload_folder": None,
    "tensor_parallel_size": 1, "tensor_parallel_seconds": 300, "defaults": {},
    "host": "127.0.0.1", "port": 8000, "uds": None, "root_path": "", "ssl_certfile": None, "ssl_keyfile": None,
    "cors_origins": [], "no_auth": False, "metrics_auth": False,
    "max_body_bytes": 4 * 1024 * 1024, "max_messages": 1024, "max_choices": 20, "max_total_tokens": None,
    "max_queue": 512, "max_streams": 512, "first_token_seconds": None, "total_seconds": None, "planning_threads": 8,
    "validation_status": 400, "keep_alive_seconds": 15, "shutdown_seconds": 30, "playground": True,
    "log_level": "info", "log_format": "json", "log_content": False, "otel": False,
}  # fmt: skip


def test_the_defaults_are_those_of_the_documentation() -> None:
    found = ServerSettings().model_dump(exclude={"auth", "upstream", *ServerSettings().chat_settings})
    assert found == DEFAULTS
    assert ServerSettings().upstream.model_dump() == {
        "urls": [], "kind": "auto", "api_key": None, "headers": {}, "timeout": 600, "retries": 2}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "least", "below"),
    [
        *((name, 1, 0) for name in ("max_body_bytes", "max_messages", "max_choices", "max_total_tokens", "max_queue")),
        *((name, 1, 0) for name in ("max_streams", "planning_threads", "tensor_parallel_size")),
        *((name, 0.001, 0) for name in ("first_token_seconds", "total_seconds", "keep_alive_seconds")),
        ("tensor_parallel_seconds", 0.001, 0),
        ("shutdown_seconds", 0, -1),
        ("port", 0, -1),
    ],
)
def test_the_least_that_a_setting_may_be(name: str, least: float, below: float) -> None:
    assert getattr(ServerSettings(**{name: least}), name) == least
    with pytest.raises(ValueError, match=name):
        ServerSettings(**{name: below})


def test_the_most_and_the_words_that_a_setting_may_be() -> None:
    assert ServerSettings(port=65535, validation_status=422, log_level="debug", log_format="plain").port == 65535
    for name, wrong in (("port", 65536), ("validation_status", 200), ("log_level", "loud"), ("log_format", "xml")):
        with pytest.raises(ValueError, match=name):
            ServerSettings(**{name: wrong})


def test_lists_are_written_with_commas() -> None:
    for name in ("served_model_name", "plugins", "disable", "cors_origins"):
        assert getattr(ServerSettings(**{name: " a, b,,"}), name) == ["a", "b"]
        assert getattr(ServerSettings(**{name: ["a,b"]}), name) == ["a,b"]


@pytest.mark.parametrize(
    ("settings", "local"),
    [
        ({"host": "127.0.0.1"}, True),
        ({"host": "127.4.5.6"}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "12.7.0.1"}, False),
        ({"host": "0.0.0.0", "uds": "/tmp/s"}, True),
    ],
    ids=str,
)
def test_what_only_this_machine_reaches(settings: dict[str, Any], local: bool) -> None:
    assert ServerSettings(**settings).is_local == local


# --- what settings come to --------------------------------------------------------------------------------------------


class Loaded:
    """What stands for a class of transformers: it keeps what it was asked for."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.given: dict[str, Any] = {}

    def from_pretrained(self, name: str, **given: Any) -> Any:
        self.given = {"name": name, **given}
        return self.answer


@pytest.mark.parametrize(
    ("settings", "given"),
    [
        ({}, {"device_map": likely_device(), "dtype": "auto"}),
        ({"device": "cpu", "dtype": "bfloat16"}, {"device_map": "cpu", "dtype": "bfloat16"}),
        ({"device": "cpu", "device_map": "balanced"}, {"device_map": "balanced", "dtype": "auto"}),
        (
            {"device_map": "auto", "max_memory": {"0": "1GiB", "cpu": "2GiB"}, "offload_folder": "over"},
            {"device_map": "auto", "dtype": "auto", "max_memory": {0: "1GiB", "cpu": "2GiB"}, "offload_folder": "over"},
        ),
    ],
    ids=range(4),
)
def test_where_the_model_is_loaded(
    settings: dict[str, Any], given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tiny_model: LlamaForCausalLM
) -> None:
    model, tokenizer = Loaded(tiny_model), Loaded(stand_in().tokenizer)
    monkeypatch.setattr("transformers.AutoModelForCausalLM", model)
    monkeypatch.setattr("transformers.AutoTokenizer", tokenizer)
    chat = load_chat(ServerSettings(model="a/b", engine="generate", **settings), Plugins(installed=False))
    found = {name.replace("torch_dtype", "dtype"): value for name, value in model.given.items()}
    assert found == {"name": "a/b", **given}
    assert tokenizer.given == {"name": "a/b"}
    assert chat.model.name == "a/b"


def test_what_the_chat_is_made_with(monkeypatch: pytest.MonkeyPatch, tiny_model: LlamaForCausalLM) -> None:
    monkeypatch.setattr("transformers.AutoModelForCausalLM", Loaded(tiny_model))
    monkeypatch.setattr("transformers.AutoTokenizer", Loaded(stand_in().tokenizer))
    settings = ServerSettings(model="a/b", served_model_name="one,two", engine="generate", defaults={"top_k": 3},
                              max_stop=7, disable=["guided"])  # fmt: skip
    chat = load_chat(settings, load_plugins(settings))
    assert (chat.model.name, chat.engine.name, chat.defaults) == ("one", "generate", {"top_k": 3})
    assert chat.model.settings.max_stop == 7
    with pytest.raises(RequestError, match="guided_choice"):
        chat.plan([{"role": "user", "content": "Hi"}], guided_choice=["a"])


@pytest.mark.parametrize("kind", [OSError, ValueError])
def test_what_the_libraries_say_of_a_checkpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    def fail(*names: Any, **given: Any) -> None:
        raise kind("no checkpoint here")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(EngineError, match="no checkpoint here") as caught:
        load_chat(ServerSettings(model="a/b"), Plugins(installed=False))
    assert caught.value.param == "a/b"


def test_a_place_that_comes_to_nothing_is_found_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    with pytest.raises(EngineError, match="there is no such folder") as caught:
        check_place(ServerSettings(model=str(folder)))
    assert caught.value.param == str(folder)
    folder.mkdir()
    with pytest.raises(EngineError, match="has no config.json"):
        check_place(ServerSettings(model=str(folder)))
    (folder / "config.json").touch()
    check_place(ServerSettings(model=str(folder), port=0))
    check_place(ServerSettings(model="some/model", port=0))
    check_place(ServerSettings(port=0))


def test_an_address_that_is_taken_is_found_at_once(tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(EngineError, match=f"port {port} of 127.0.0.1: another program uses it; --port takes"):
            check_place(ServerSettings(port=port))
        check_place(ServerSettings(port=port, uds=tmp_path / "s"))  # which listens elsewhere
    check_place(ServerSettings(port=port))
    with pytest.raises(EngineError, match="of 192.0.2.1: ") as caught:  # no machine has this address
        check_place(ServerSettings(host="192.0.2.1", port=0))
    assert "another program" not in str(caught.value)


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["m", "--prot", "3"], "did you mean --port?"),
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
    result = CliRunner().invoke(app, ["serve", "--help"])
    assert result.exit_code == 0
    for name, field in ServerSettings.model_fields.items():
        flag = name.replace("_", "-")
        assert re.search(rf"^  --(no-)?{flag}\b|^  --{name}\.", result.stdout, re.MULTILINE), name
        assert field.description
    assert "(default: 8000)" in result.stdout
    assert "MODEL" in result.stdout
    refused = CliRunner().invoke(app, ["serve", "m", "--prot", "3"])
    assert refused.exit_code == 2
    assert "--prot" in refused.stderr
