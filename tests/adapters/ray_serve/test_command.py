"""The one command: it runs a cluster, and when it ends, accepted requests have their answers."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_until

from chatplan.adapters.ray_serve.commands import main

SMALL = "--kv-cache-bytes 100000000 --max-model-len 1024 --dtype float32 --device cpu --num-cpus 0.5"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("m --host 0.0.0.0", "host 0.0.0.0 can be reached from elsewhere"),
        ("m --num-gpus 0.5", "kv_cache_bytes: with num_gpus=0.5"),
        ("m --replicas two", "replicas: "),
        ("", "model: which one?"),
    ],
)
def test_what_cannot_run_is_said_at_once(
    flags: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATPLAN_MODEL", raising=False)
    assert main(flags.split()) == 2
    assert says in capsys.readouterr().err


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.dev_only
@pytest.mark.timeout(600)
def test_a_signal_ends_it_after_the_last_answer(model_path: str, tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    command = [sys.executable, "-m", "chatplan.adapters.ray_serve", model_path, "--port", str(port), *SMALL.split()]
    environment = os.environ | {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
    log = tmp_path / "log"
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:
            _until_healthy(f"http://127.0.0.1:{port}/health", process, log)
            body = {"messages": [{"role": "user", "content": "Tell me a story."}], "temperature": 0, "max_tokens": 200}
            with ThreadPoolExecutor(1) as pool:
                url = f"http://127.0.0.1:{port}/v1/chat/completions"
                answer = pool.submit(httpx.post, url, json=body | {"ignore_eos": True}, timeout=100)
                _until_running(f"http://127.0.0.1:{port}/metrics", answer)
                process.send_signal(signal.SIGTERM)
                assert answer.result(120).json()["usage"]["completion_tokens"] == 200
            assert process.wait(120) == 0
        finally:
            process.kill()


def _until_running(url: str, answer: Future[httpx.Response]) -> None:
    """Until the replica says that it works on the request."""

    def runs() -> bool:
        assert not answer.done()
        families = text_string_to_metric_families(httpx.get(url, timeout=60).text)
        return any(sample.value for family in families for sample in family.samples
                   if sample.name == "chatplan_requests_running")  # fmt: skip

    wait_until(runs)


def _until_healthy(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        try:
            if httpx.get(url, timeout=10).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.3)
    pytest.fail(log.read_text()[-2000:])
