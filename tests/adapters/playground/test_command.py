"""``chatplan playground`` in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from chatplan.adapters.playground.commands import page_address
from chatplan.adapters.server import ServerSettings

pytestmark = pytest.mark.dev_only

COMMAND = [sys.executable, "-m", "chatplan", "playground"]


def test_it_serves_prints_the_address_and_opens_the_browser(tmp_path: Path) -> None:
    """The address is there before the model is: here, a model that cannot be loaded."""
    opened = tmp_path / "opened"
    (tmp_path / "config.json").write_text("{}")
    environment = {**os.environ, "BROWSER": f"sh -c 'echo %s > {opened}'", "CHATPLAN_PLAYGROUND": "false"}
    command = [*COMMAND, "--port", "0", str(tmp_path), "--log-format", "plain"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert out.startswith("The playground is at http://127.0.0.1:")
    assert opened.read_text().strip() == out.split()[-1]


@pytest.mark.model
def test_it_answers_until_it_is_stopped(model_path: str) -> None:
    command = [*COMMAND, model_path, "--port=0", "--no-browser", "--served-model-name", "mine"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    try:
        assert "<title>chatplan playground</title>" in httpx.get(address).text
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_addresses_are_such_as_a_browser_here_can_open() -> None:
    assert page_address(ServerSettings(host="0.0.0.0"), 80) == "http://127.0.0.1:80/playground"
    assert page_address(ServerSettings(host="::1"), 80) == "http://[::1]:80/playground"
    secure = ServerSettings(ssl_certfile="cert.pem", host="localhost")
    assert page_address(secure, 443) == "https://localhost:443/playground"
    assert page_address(ServerSettings(uds="a.sock"), 0) == "/playground of the Unix socket a.sock"
