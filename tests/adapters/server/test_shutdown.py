"""``chatplan serve`` as a process: it loads, answers, and ends without losing a request."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import httpx
import pytest
from transformers import LlamaForCausalLM
from waiting import join, wait_until

from chatplan import Chat
from chatplan.adapters.server import ServerSettings, create_app, running
from chatplan.errors import EngineError
from chatplan.standin import stand_in

# Each token takes a moment; with the file `hold` beside the plugin, none comes.
PLUGIN = """
import time
from pathlib import Path
from transformers import LogitsProcessor
from chatplan import Stage, hookimpl

HOLD = Path(__file__).with_name("hold")

class Sleep(LogitsProcessor):
    def __call__(self, input_ids, scores):
        time.sleep(0.05)
        until = time.monotonic() + 60
        while HOLD.exists() and time.monotonic() < until:
            time.sleep(0.01)
        return scores

@hookimpl
def logits_processors(request):
    return [(Stage.BIAS, Sleep())]
"""
Ask = Callable[..., httpx.Response]
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
def process(checkpoint: Path, *flags: str) -> Iterator[tuple[Any, httpx.Client]]:
    port = free_port()
    command = ["-m", "typer", "chatplan.adapters.cli", "run", "serve", str(checkpoint), "--device", "cpu",
               "--port", str(port), "--plugins", "slow_plugin", "--engine", "generate", *flags]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(checkpoint), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    running = forked.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        try:
            yield running, client
        finally:
            running.kill()
            running.wait(60)
            running.stderr.close()


def status(client: httpx.Client, path: str = "/health") -> int:
    """The status of a path, 0 while nobody listens."""
    try:
        return client.get(path).status_code
    except httpx.TransportError:
        return 0


def wait_healthy(running: Any, client: httpx.Client) -> None:
    wait_until(lambda: status(client) == 200 or running.poll() is not None, what="the server is healthy")
    assert running.poll() is None


def under_way(client: httpx.Client) -> int:
    """How many requests the process says that it has."""
    found = re.findall(r"^chatplan_requests_(?:waiting|running) (.*)", client.get("/metrics").text, re.MULTILINE)
    return int(sum(map(float, found)))


def in_thread(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_accepted_requests_end_and_others_are_refused(checkpoint: Path) -> None:
    hold = checkpoint / "hold"
    with process(checkpoint, "--keep-alive-seconds", "0.05") as (child, client):
        wait_healthy(child, client)
        url = f"{client.base_url}/v1/chat/completions"
        hold.touch()
        try:
            with client.stream("POST", url, json={**BODY, "stream": True, "max_tokens": 10}) as stream:
                assert stream.status_code == 200
                thread, results = in_thread(lambda: httpx.post(url, json={**BODY, "max_tokens": 6}, timeout=60))
                with httpx.Client(base_url=client.base_url, timeout=60) as other:
                    wait_until(lambda: under_way(other) == 2)
                    child.send_signal(signal.SIGTERM)
                    wait_until(lambda: status(other) == 503)
                    refused = other.post(url, json=BODY)
                    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
                    assert refused.headers["retry-after"] == "5"
                    assert other.get("/live").status_code == 200
                hold.unlink()
                lines = [line for line in stream.iter_lines() if line]
            join(thread)
        finally:
            hold.unlink(missing_ok=True)
        assert results[0].json()["usage"]["completion_tokens"] == 6
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2].removeprefix("data: "))["choices"][0]["finish_reason"] == "length"
        assert child.wait(60) == 0
        log = child.stderr.read()
    assert all(json.loads(line) for line in log.splitlines())
    assert "Traceback" not in log


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_deadline_ends_what_is_left_with_an_error(checkpoint: Path) -> None:
    with process(checkpoint, "--shutdown-seconds", "0.5", "--keep-alive-seconds", "0.05") as (child, client):
        wait_healthy(child, client)
        url = f"{client.base_url}/v1/chat/completions"
        with client.stream("POST", url, json={**BODY, "stream": True, "max_tokens": 900}) as stream:
            thread, results = in_thread(lambda: httpx.post(url, json={**BODY, "max_tokens": 900}, timeout=60))
            with httpx.Client(base_url=client.base_url, timeout=60) as other:
                wait_until(lambda: under_way(other) == 2)
            child.send_signal(signal.SIGTERM)
            lines = [line for line in stream.iter_lines() if line]
        join(thread)
        assert results[0].status_code == 503
        assert json.loads(lines[-2].removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert lines[-1] == "data: [DONE]"
        assert child.wait(60) == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with process(tmp_path, "--log-format", "plain", "--disable", "guided") as (child, _):
        assert child.wait(90) == 2  # the plugin is not there
    (tmp_path / "slow_plugin.py").write_text(PLUGIN, "utf-8")
    with process(tmp_path, "--log-format", "plain") as (child, _):
        assert child.wait(90) == 1
        assert "the model cannot be loaded" in child.stderr.read()


# --- in this process --------------------------------------------------------------------------------------------------

URL = "/v1/chat/completions"


def events(answer: httpx.Response) -> list[str]:
    return [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]


def test_whoever_is_under_way_is_told_that_the_server_ends(
    serve: Any, slow_chat: Chat, ask: Ask, stream: Callable[..., Any]
) -> None:
    with serve(slow_chat, keep_alive_seconds=0.05) as server, server.client() as client:
        with stream(client, slow=0.05, max_tokens=900) as first, stream(client, slow=0.05, max_tokens=900) as second:
            whole, results = in_thread(lambda: ask(client, slow=0.05, max_tokens=900))
            wait_until(lambda: len(server.service.under_way) == 3)
            server.server.handle_exit(signal.SIGTERM, None)
            for answer in (first, second):
                *_, error, done = events(answer)
                assert json.loads(error)["error"]["code"] == "shutting_down"
                assert done == "[DONE]"
            join(whole)
        (refused,) = results
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
        assert refused.headers["retry-after"] == "5"


def test_a_server_that_ends_waits_for_what_it_accepted(
    serve: Any, held_chat: Chat, hold: Any, stream: Callable[..., Any]
) -> None:
    with serve(held_chat, shutdown_seconds=60, keep_alive_seconds=0.05) as server, server.client() as client:
        with stream(client, hold=0) as answer, server.client() as other:
            server.server.handle_exit(signal.SIGTERM, None)
            for path, status_code in (("/health", 503), ("/v1/models", 503), ("/live", 200), ("/metrics", 200)):
                assert other.get(path).status_code == status_code
            hold.let_go()
            *_, last, done = events(answer)
        assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        assert done == "[DONE]"


def test_a_second_signal_ends_at_once(serve: Any, slow_chat: Chat, stream: Callable[..., Any]) -> None:
    with (
        serve(slow_chat, shutdown_seconds=60, keep_alive_seconds=0.05) as server,
        server.client() as client,
        stream(client, slow=0.05, max_tokens=900) as answer,
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            assert not server.server.should_exit
            server.server.handle_exit(number, None)
        assert server.server.should_exit
        with contextlib.suppress(httpx.TransportError):  # the connection may be cut before its end is said
            assert "length" not in answer.read().decode()


def test_what_the_server_made_it_closes(serve: Any, new_chat: Any) -> None:
    closed: list[str] = []
    made, given = new_chat(), new_chat()
    made.close, given.close = lambda: closed.append("made"), lambda: closed.append("given")
    with serve(lambda: made) as server, server.client() as client:
        wait_until(lambda: status(client) == 200)
        assert closed == []
    assert closed == ["made"]
    with serve(given):
        pass
    assert closed == ["made"]


def test_a_server_without_a_model_ends_with_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    def load() -> Chat:
        raise EngineError("there is no such model")

    app = create_app(load, ServerSettings(port=0))
    assert running.serve(app) == 1
    assert isinstance(app.state.service.failure, EngineError)
    assert "the model cannot be loaded: there is no such model" in caplog.text


def test_the_port_is_told_when_requests_are_heard(slow_chat: Chat) -> None:
    heard: queue.SimpleQueue[int] = queue.SimpleQueue()
    server = running.Server(create_app(slow_chat, ServerSettings(port=0, shutdown_seconds=0)), heard.put)
    thread, _ = in_thread(server.run)
    port = heard.get(timeout=60)
    try:
        assert httpx.get(f"http://127.0.0.1:{port}/live", timeout=60).status_code == 200
    finally:
        server.handle_exit(signal.SIGTERM, None)
        join(thread)


def test_settings_of_the_socket_are_uvicorns(slow_chat: Chat, tmp_path: Path) -> None:
    files = {"ssl_certfile": tmp_path / "cert.pem", "ssl_keyfile": tmp_path / "key.pem"}
    settings = ServerSettings(host="127.0.0.9", port=8123, **files)
    config = running.Server(create_app(slow_chat, settings)).config
    assert (config.host, config.port, config.uds) == ("127.0.0.9", 8123, None)
    assert (config.ssl_certfile, config.ssl_keyfile) == tuple(files.values())
    assert config.timeout_keep_alive > 60  # longer than proxies keep a connection
    assert (config.access_log, config.server_header) == (False, False)
