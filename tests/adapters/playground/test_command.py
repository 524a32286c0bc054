"""``chatplan playground``: what it hands to the server, and the whole of it in a process of its own."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import forked
import httpx
import pytest
from transformers import LlamaForCausalLM
from typer.testing import CliRunner

from chatplan.adapters.cli import app
from chatplan.adapters.playground.commands import page_address
from chatplan.adapters.server import ServerSettings, commands
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only

COMMAND = ["-m", "chatplan", "playground"]


class Started:
    """What the server was started with, and the addresses that a browser was sent to."""

    def __init__(self) -> None:
        self.arguments: list[str] = []
        self.program = ""
        self.fixed: Mapping[str, Any] = {}
        self.opened: queue.Queue[str] = queue.Queue()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Started, str]]:
    """Runs the command with a server that only says that it listens; returns what it was given and what was printed."""

    def invoke(*words: str, settings: ServerSettings | None = None, port: int = 8123) -> tuple[Started, str]:
        started = Started()

        def run(arguments: Sequence[str], program: str, listening: Callable[..., object], **fixed: Any) -> None:
            started.arguments, started.program, started.fixed = list(arguments), program, fixed
            listening(settings or ServerSettings(), port)

        monkeypatch.setattr(commands, "run", run)
        monkeypatch.setattr(webbrowser, "open", started.opened.put)
        result = CliRunner().invoke(app, ["playground", *words], catch_exceptions=False)
        assert result.exit_code == 0
        return started, result.stdout

    return invoke


def test_flags_of_the_server_are_handed_on_and_the_page_is_always_there(start: Callable[..., Any]) -> None:
    started, _ = start("owner/name", "--max-queue", "3", "--no-playground")
    assert started.arguments == ["owner/name", "--max-queue", "3", "--no-playground"]
    assert started.program == "chatplan playground"
    assert started.fixed == {"playground": True}


def test_the_address_is_printed_and_opened(start: Callable[..., Any]) -> None:
    started, said = start("owner/name")
    assert said == "The playground is at http://127.0.0.1:8123/playground\n"
    assert started.opened.get(timeout=60) == "http://127.0.0.1:8123/playground"


@pytest.mark.parametrize(
    ("words", "settings"), [(["--no-browser"], {}), ([], {"uds": "a.sock"}), (["--no-browser"], {"uds": "a.sock"})]
)
def test_no_browser_is_opened_where_none_is_wanted_or_none_could_open_it(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: list[str], settings: Mapping[str, Any]
) -> None:
    monkeypatch.setattr("threading.Thread", lambda **given: pytest.fail("a browser is opened"))
    started, said = start("owner/name", *words, settings=ServerSettings(**settings))
    assert said.startswith("The playground is at ")
    assert started.arguments == ["owner/name"]
    assert started.opened.empty()


@pytest.mark.parametrize(
    ("settings", "port", "address"),
    [
        ({"host": "0.0.0.0"}, 80, "http://127.0.0.1:80/playground"),
        ({"host": "::"}, 80, "http://[::1]:80/playground"),
        ({"host": "::1"}, 80, "http://[::1]:80/playground"),
        ({"host": "10.1.2.3"}, 8000, "http://10.1.2.3:8000/playground"),
        ({"ssl_certfile": "cert.pem", "host": "localhost"}, 443, "https://localhost:443/playground"),
        ({"uds": "a.sock"}, 0, "/playground of the Unix socket a.sock"),
    ],
)
def test_addresses_are_such_as_a_browser_here_can_open(settings: dict[str, Any], port: int, address: str) -> None:
    assert page_address(ServerSettings(**settings), port) == address


@pytest.mark.slow
def test_the_address_is_opened_before_the_model_is_loaded(tmp_path: Path) -> None:
    """Here, a model that cannot be loaded."""
    opened = tmp_path / "opened"
    (tmp_path / "config.json").write_text("{}")
    environment = {**os.environ, "BROWSER": f"sh -c 'echo %s > {opened}'", "CHATPLAN_PLAYGROUND": "false"}
    command = [*COMMAND, "--port", "0", str(tmp_path), "--log-format", "plain"]
    done = forked.run(command, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 1
    assert done.stdout.startswith("The playground is at http://127.0.0.1:")
    assert opened.read_text().strip() == done.stdout.split()[-1]


@pytest.mark.slow
def test_it_answers_until_it_is_stopped(tiny_model: LlamaForCausalLM, tmp_path: Path) -> None:
    """Also where the environment says that no page is served."""
    tiny_model.save_pretrained(tmp_path)
    stand_in().tokenizer.save_pretrained(tmp_path)
    command = [*COMMAND, str(tmp_path), "--port=0", "--no-browser", "--device", "cpu"]
    environment = os.environ | {"CHATPLAN_PLAYGROUND": "false"}
    process = forked.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
    )
    try:
        address = process.stdout.readline().split()[-1]
        assert "<title>chatplan playground</title>" in httpx.get(address, timeout=60).text
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
