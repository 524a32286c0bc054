"""The server on the engine ``continuous``: many clients at once, and those who leave."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from waiting import wait_until

from chatplan import Chat, ModelInfo, Settings
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only
GAUGES = ("requests_running", "requests_waiting", "engine_rows_running", "engine_rows_waiting", "cache_usage_ratio")


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any], new_model: Callable[[], Any]) -> Iterator[Any]:
    settings = Settings(scheduling_policy="priority", max_num_seqs=16)
    chat = Chat(ModelInfo.of(new_model(), stand_in().tokenizer, settings, "tests/tiny"), options={"serving": True})
    assert chat.engine.name == "continuous"
    with serve(chat) as running:
        yield running
    chat.close()


def gauges(url: str) -> dict[str, float]:
    text = httpx.get(f"{url}/metrics", timeout=60).text
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {sample.name: sample.value for sample in samples if sample.name.removeprefix("chatplan_") in GAUGES}


def wait_until_idle(url: str) -> None:
    wait_until(lambda: not any(gauges(url).values()), 40, "no gauge shows anything")
    assert len(gauges(url)) == len(GAUGES)


def wish(number: int) -> tuple[dict[str, Any], str]:
    """A request, and the one answer that it allows."""
    words = f"number {number}"
    fields: list[dict[str, Any]] = [
        {"guided_choice": [words]},
        {"guided_regex": words},
        {"structured_outputs": {"choice": [words]}, "n": 2},
        {"guided_choice": [words], "logprobs": True, "top_logprobs": 2, "temperature": 1.5},
        {"guided_choice": [words], "priority": number % 3 - 1, "seed": number},
        {"guided_choice": [words], "stop": ["zzz"], "repetition_penalty": 1.2},
    ]
    return fields[number % len(fields)], words


async def send(client: httpx.AsyncClient, number: int) -> None:
    fields, words = wish(number)
    body = {"messages": [{"role": "user", "content": f"Say {words}."}], "max_tokens": 40, **fields}
    answer = await client.post("/v1/chat/completions", json={**body, "stream": False})
    assert answer.status_code == 200, answer.text
    assert {choice["message"]["content"] for choice in answer.json()["choices"]} == {words}


def test_no_answer_is_lost_or_mixed(server: Any) -> None:
    async def load() -> None:
        async with httpx.AsyncClient(base_url=server.url, timeout=90) as client:
            await asyncio.gather(*(send(client, number) for number in range(48)))

    asyncio.run(load())
    wait_until_idle(server.url)


def test_clients_who_leave_in_mid_stream_leave_nothing(server: Any) -> None:
    async def leave(client: httpx.AsyncClient, number: int) -> None:
        body = {"messages": [{"role": "user", "content": f"Talk {number}."}], "max_tokens": 900, "ignore_eos": True}
        async with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True, "n": 2}) as answer:
            wanted = random.Random(number).randrange(1, 12)
            async for line in answer.aiter_lines():
                wanted -= bool(line)
                if not wanted:
                    return

    async def load() -> None:
        async with httpx.AsyncClient(
            base_url=server.url, timeout=60, limits=httpx.Limits(max_connections=32)
        ) as client:
            await asyncio.gather(*(leave(client, number) for number in range(64)))

    asyncio.run(load())
    server.wait_idle()
    wait_until_idle(server.url)
