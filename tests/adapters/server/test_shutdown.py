"""``chatplan serve`` as a process: it loads, answers, and ends without losing a request."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import LlamaForCausalLM

from chatplan.standin import stand_in

PLUGIN = """
import time
from transformers import LogitsProcessor
from chatplan import Stage, hookimpl

class Sleep(LogitsProcessor):
    def __call__(self, input_ids, scores):
        time.sleep(0.02)
        return scores

@hookimpl
def logits_processors(request):
    return [(Stage.BIAS, Sleep())]
"""
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: LlamaForCausalLM) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    stand_in().tokenizer.save_pretrained(folder)
    (folder / "slow_plugin.py").write_text(PLUGIN, "utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def process(checkpoint: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    port = free_port()
    command = [sys.executable, "-m", "typer", "chatplan.adapters.cli", "run", "serve", str(checkpoint),
               "--port", str(port), "--plugins", "slow_plugin", "--engine", "generate", *flags]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(checkpoint), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    with running, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        try:
            yield running, client
        finally:
            running.kill()


def wait_healthy(client: httpx.Client) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the server did not come up")


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_accepted_requests_end_and_others_are_refused(checkpoint: Path) -> None:
    with process(checkpoint) as (running, client):
        wait_healthy(client)
        url = f"{client.base_url}/v1/chat/completions"
        with client.stream("POST", url, json={**BODY, "stream": True, "max_tokens": 60}) as stream:
            assert stream.status_code == 200
            thread, results = in_thread(lambda: httpx.post(url, json={**BODY, "max_tokens": 20}, timeout=60))
            time.sleep(0.3)
            running.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            refused = httpx.post(url, json=BODY)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
            assert int(refused.headers["retry-after"]) > 0
            assert httpx.get(f"{client.base_url}/health").status_code == 503
            assert httpx.get(f"{client.base_url}/live").status_code == 200
            lines = [line for line in stream.iter_lines() if line]
        thread.join()
        assert results[0].json()["usage"]["completion_tokens"] == 20
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert running.wait(20) == 0
        log = (running.stderr or sys.stderr).read()
    assert all(json.loads(line) for line in log.splitlines())
    assert "Traceback" not in log


def test_the_deadline_ends_what_is_left_with_an_error(checkpoint: Path) -> None:
    with process(checkpoint, "--shutdown-seconds", "0.5") as (running, client):
        wait_healthy(client)
        url = f"{client.base_url}/v1/chat/completions"
        with client.stream("POST", url, json={**BODY, "stream": True, "max_tokens": 900}) as stream:
            thread, results = in_thread(lambda: httpx.post(url, json={**BODY, "max_tokens": 900}, timeout=60))
            time.sleep(0.3)
            running.send_signal(signal.SIGTERM)
            lines = [line for line in stream.iter_lines() if line]
        thread.join()
        assert results[0].status_code == 503
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert lines[-1] == "data: [DONE]"
        assert running.wait(20) == 0


def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with process(tmp_path, "--log-format", "plain", "--disable", "guided") as (running, _):
        assert running.wait(60) == 2  # the plugin is not there
    (tmp_path / "slow_plugin.py").write_text(PLUGIN, "utf-8")
    with process(tmp_path, "--log-format", "plain") as (running, _):
        assert running.wait(60) == 1
        assert "the model cannot be loaded" in (running.stderr or sys.stderr).read()
