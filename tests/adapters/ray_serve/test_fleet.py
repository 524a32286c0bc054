"""Two replicas of the real model on Ray Serve: fields, streams, credentials, a replica that is killed, the command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import ray
from ray import serve

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.dev_only, pytest.mark.timeout(600)]

Fleet = Any
PATH = "/v1/chat/completions"
GUIDED = {"guided_regex": r"\d{3}-\d{4}"}


def ask(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "smollm2", "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


@pytest.fixture(scope="module")
def client(fleet: Fleet) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{fleet.url}/v1", api_key=fleet.key, max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def http(fleet: Fleet) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=fleet.url, headers={"Authorization": f"Bearer {fleet.key}"}, timeout=60) as client:
        yield client


# --- as one server ----------------------------------------------------------------------------------------------------


def test_both_replicas_share_the_gpu(fleet: Fleet) -> None:
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    assert free.get("GPU", 0) == 0
    assert len(set(fleet.processes().values())) == 2


def test_fields(client: openai.OpenAI) -> None:
    body = ask("Your number?", temperature=1, seed=7, logprobs=True, top_logprobs=2, max_tokens=12)
    first, second = (client.chat.completions.create(**body, extra_body=GUIDED) for _ in range(2))
    choice = first.choices[0]
    assert choice.message.content is not None
    assert len(choice.message.content) == 8
    assert choice.message.content == second.choices[0].message.content
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert len(choice.logprobs.content[0].top_logprobs) == 2


def test_a_stream_is_the_answer(client: openai.OpenAI) -> None:
    body = ask("Name a fruit.", max_tokens=8)
    pieces = client.chat.completions.create(**body, stream=True)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
    assert text == client.chat.completions.create(**body).choices[0].message.content


def test_refusals_have_the_servers_shape(http: httpx.Client) -> None:
    refused = http.post(PATH, json=ask("Hi", temperature=-1))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "temperature")
    long = http.post(PATH, json=ask("x" * 5_000_000))
    assert (long.status_code, long.json()["error"]["code"]) == (413, "request_too_large")
    assert http.get("/nowhere").json()["error"]["code"] == "not_found"


def test_strangers_are_not_answered(fleet: Fleet) -> None:
    answer = httpx.post(f"{fleet.url}{PATH}", json=ask("Hi"), timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "missing_credentials")
    assert "WWW-Authenticate" in answer.headers


def test_an_answer_has_one_id(http: httpx.Client) -> None:
    given = http.post(PATH, json=ask("Hi", max_tokens=1), headers={"X-Request-Id": "mine"})
    assert given.headers.get_list("x-request-id") == ["mine"]
    assert given.json()["id"] == "chatcmpl-mine"
    assert http.post(PATH, json=ask("Hi", max_tokens=1, request_id="own")).json()["id"] == "chatcmpl-own"


def test_metrics_tell_replicas_apart(fleet: Fleet) -> None:
    assert httpx.get(f"{fleet.url}/health", timeout=60).json() == {"status": "ok"}
    assert set(fleet.metric("chatplan_requests_waiting")) == set(fleet.processes())


def test_one_beginning_goes_to_one_replica(fleet: Fleet, http: httpx.Client) -> None:
    before = fleet.metric("chatplan_completion_tokens_total")
    shared = "You are the guide of a museum. " * 80
    for number in range(4):
        assert http.post(PATH, json=ask(f"{shared}{number}?", max_tokens=1)).status_code == 200
    after = fleet.metric("chatplan_completion_tokens_total")
    assert sorted(after[name] - before.get(name, 0) for name in after) == [0, 4]


def test_a_client_that_leaves_stops_its_answer(fleet: Fleet, http: httpx.Client) -> None:
    body = ask("Tell me a story.", stream=True, max_tokens=600, ignore_eos=True)
    with http.stream("POST", PATH, json=body) as answer:
        next(answer.iter_lines())
    fleet.until(lambda: not sum(fleet.metric("chatplan_requests_running").values()), 30)
    assert sum(fleet.metric("chatplan_disconnects_total").values()) == 1


# --- a replica dies ---------------------------------------------------------------------------------------------------


async def _events(client: httpx.AsyncClient, body: dict[str, Any], seen: asyncio.Event) -> list[str]:
    """The lines of a stream; ``seen`` is set at the first of them."""
    lines = []
    async with client.stream("POST", PATH, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            seen.set()
            lines.append(line)
    return [line for line in lines if line]


def _text(lines: list[str]) -> str:
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)


async def _kill_the_busy_one(fleet: Fleet) -> None:
    running = await asyncio.to_thread(fleet.metric, "chatplan_requests_running")
    await asyncio.to_thread(fleet.kill, max(running, key=running.__getitem__))


def _alike(fleet: Fleet) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=fleet.url, headers={"Authorization": f"Bearer {fleet.key}"}, timeout=60)


def test_a_killed_replica_loses_no_request_that_had_not_begun(fleet: Fleet, http: httpx.Client) -> None:
    fleet.until(lambda: fleet.running() == 2)
    begun = [ask(f"Tell me a story about {name}.", max_tokens=40, ignore_eos=True) for name in ("a fox", "Bern")]
    waiting = [ask(f"What is {number} plus 1?", max_tokens=30, ignore_eos=True) for number in range(6)]
    expected = [http.post(PATH, json=body).json()["choices"][0]["message"]["content"] for body in waiting[:2]]

    async def go() -> tuple[list[list[str]], list[httpx.Response]]:
        async with _alike(fleet) as client:
            seen = [asyncio.Event() for _ in begun]
            streams = [asyncio.create_task(_events(client, *pair)) for pair in zip(begun, seen, strict=True)]
            await asyncio.wait_for(asyncio.gather(*(event.wait() for event in seen)), 60)
            whole = [asyncio.create_task(client.post(PATH, json=body)) for body in waiting]
            await asyncio.sleep(0.3)
            await _kill_the_busy_one(fleet)
            return await asyncio.gather(*streams), await asyncio.gather(*whole)

    streams, whole = asyncio.run(go())
    assert [answer.status_code for answer in whole] == [200] * 6
    assert [answer.json()["choices"][0]["message"]["content"] for answer in whole[:2]] == expected
    broken = 0
    for lines in streams:
        assert lines[-1] == "data: [DONE]"
        last = json.loads(lines[-2].removeprefix("data: "))
        if "error" in last:
            broken += 1
            assert last["error"]["code"] == "replica_died"
        else:
            assert last["choices"][0]["finish_reason"] == "length"
    assert broken >= 1


def test_a_stream_of_comments_had_not_begun(fleet: Fleet, http: httpx.Client) -> None:
    fleet.until(lambda: fleet.running() == 2)
    body = ask("Name three rivers.", use_beam_search=True, best_of=2, max_tokens=40, ignore_eos=True)
    expected = http.post(PATH, json=body).json()["choices"][0]["message"]["content"]

    async def go() -> list[str]:
        async with _alike(fleet) as client:
            seen = asyncio.Event()
            stream = asyncio.create_task(_events(client, body, seen))
            await asyncio.wait_for(seen.wait(), 60)
            assert not stream.done()
            await _kill_the_busy_one(fleet)
            return await stream

    lines = asyncio.run(go())
    assert lines[0] == ": keep-alive"
    assert _text(lines) == expected
    assert "error" not in "".join(lines)


def test_fewer_replicas_by_the_config_file(fleet: Fleet, http: httpx.Client) -> None:
    fleet.until(lambda: fleet.running() == 2 and len(fleet.processes()) == 2)  # the list of processes comes later
    before = fleet.processes()
    fleet.config["applications"][0]["deployments"] = [{"name": "Replica", "num_replicas": 1}]
    fleet.deploy()
    fleet.until(lambda: fleet.running() == 1 and len(fleet.processes()) == 1)
    assert set(fleet.processes()) < set(before)
    assert http.post(PATH, json=ask("Hi", max_tokens=1)).status_code == 200


# --- the command ------------------------------------------------------------------------------------------------------

SMALL = "--kv-cache-bytes 100000000 --max-model-len 1024 --dtype float32 --device cpu --num-cpus 0.5"


def test_a_signal_ends_the_command_after_the_last_answer(fleet: Fleet, model_path: str, tmp_path: Path) -> None:
    """On the same cluster, in place of the fleet; it is the last test, as Serve ends with the command."""
    serve.delete(fleet.config["applications"][0]["name"])
    command = [sys.executable, "-m", "chatplan.adapters.ray_serve", model_path, *SMALL.split()]
    environment = os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    log = tmp_path / "log"
    body = ask("Tell me a story.", max_tokens=200, ignore_eos=True)
    del body["model"]
    with log.open("w") as out, subprocess.Popen(command, env=environment, stdout=out, stderr=out) as process:
        try:

            def healthy() -> bool:
                assert process.poll() is None, log.read_text()[-2000:]
                return httpx.get(f"{fleet.url}/health", timeout=60).status_code == 200

            def runs() -> bool:
                assert not answer.done()
                return any(fleet.metric("chatplan_requests_running").values())

            fleet.until(healthy, 240)
            with ThreadPoolExecutor(1) as pool:
                answer = pool.submit(httpx.post, f"{fleet.url}{PATH}", json=body, timeout=100)
                fleet.until(runs)
                process.send_signal(signal.SIGTERM)
                assert answer.result(120).json()["usage"]["completion_tokens"] == 200
            assert process.wait(120) == 0
        finally:
            process.kill()
