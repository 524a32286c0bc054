"""``chatplan serve`` of a model that is divided or placed by accelerate."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("pydantic_settings")

import httpx
import psutil  # type: ignore[import-untyped]

from chatplan import ChatPipeline, pipeline
from chatplan.adapters.server import ServerSettings
from chatplan.adapters.server.loading import load_chat, load_plugins

HELLO = [{"role": "user", "content": "Hello there"}]
GREEDY: dict[str, Any] = {"messages": HELLO, "temperature": 0, "max_tokens": 8, "return_token_ids": True}
LONG = {**GREEDY, "max_tokens": 900, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def whole(checkpoint: str) -> ChatPipeline:
    return pipeline("chat", model=checkpoint)


@contextmanager
def serving(*flags: str) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "typer", "chatplan.adapters.cli", "run", "serve", *flags, "--port", str(port),
               "--log-level", "warning"]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            wait_until_ready(client, process)
            yield client, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait(60)


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the server is not ready")


def ask(client: httpx.Client, **fields: Any) -> Any:
    answer = client.post("/v1/chat/completions", json={**GREEDY, **fields}).raise_for_status().json()
    return [choice["token_ids"] for choice in answer["choices"]]


def expected(whole: ChatPipeline, **fields: Any) -> Any:
    return [choice.token_ids for choice in whole({**GREEDY, **fields}).choices]


@pytest.mark.slow
@pytest.mark.dev_only
def test_two_ranks_serve(checkpoint: str, whole: ChatPipeline) -> None:
    with serving(checkpoint, "--tensor-parallel-size", "2", "--dtype", "float32") as (client, process):
        ranks = process.children()
        assert len(ranks) == 1
        assert ask(client) == expected(whole)
        with client.stream("POST", "/v1/chat/completions", json=LONG) as reply:
            events = [line for line, _ in zip(reply.iter_lines(), range(6), strict=False)]
        assert json.loads(events[2].removeprefix("data: "))["choices"]
        for fields in ({"guided_regex": "[a-c]{4}", "seed": 1}, {"seed": 3, "n": 2}):
            assert ask(client, **fields) == expected(whole, **fields)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) in (0, None)
        psutil.wait_procs(ranks, 60)
        assert not [rank for rank in ranks if rank.is_running()]


@pytest.mark.slow
@pytest.mark.dev_only
def test_a_rank_that_dies_is_told(checkpoint: str) -> None:
    with serving(checkpoint, "--tensor-parallel-size", "2") as (client, process):
        with client.stream("POST", "/v1/chat/completions", json=LONG) as reply:
            lines = reply.iter_lines()
            begun = [next(lines) for _ in range(4)]
            process.children()[0].kill()
            rest = [line for line in lines if line]
        assert all("error" not in line for line in begun)
        assert json.loads(rest[-2].removeprefix("data: "))["error"]["code"] == "engine_error"
        assert rest[-1] == "data: [DONE]"
        for reply in (client.post("/v1/chat/completions", json=GREEDY), client.get("/health")):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_dead")


def test_what_is_placed_on_disk_runs_on_generate(checkpoint: str, offload: str, whole: ChatPipeline) -> None:
    settings = ServerSettings(
        model=checkpoint, device_map="auto", max_memory={"cpu": "100KB"}, offload_folder=offload, dtype="float32"
    )
    chat = load_chat(settings, load_plugins(settings))
    assert chat.engine.name == "generate"
    model: Any = chat.model.require_module()
    assert set(model.hf_device_map.values()) == {"cpu", "disk"}
    assert [choice.token_ids for choice in chat.complete(GREEDY).choices] == expected(whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_memory": {"cpu": "1GiB"}}, "max_memory and offload_folder are for device_map"),
        ({"offload_folder": "here"}, "max_memory and offload_folder are for device_map"),
        ({"tensor_parallel_size": 2, "device": "cpu"}, "leave out device and device_map"),
        ({"tensor_parallel_size": 2, "device_map": "auto"}, "leave out device and device_map"),
        ({"tensor_parallel_size": 0}, "greater than or equal to 1"),
    ],
)
def test_settings_that_say_two_things(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ServerSettings(**settings)
