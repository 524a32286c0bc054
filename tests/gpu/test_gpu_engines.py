"""Both engines on the device: the same tokens, alone or in company, and those of the CPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import torch
from waiting import wait_until

from chatplan import Chat

pytestmark = [pytest.mark.gpu, pytest.mark.dev_only]
NewChat = Callable[..., Chat]
COMMON: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 10,
                          "return_token_ids": True}  # fmt: skip
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "longer": {"temperature": 0, "messages": [{"role": "user", "content": "A prompt of many more tokens. " * 20}]},
    "seeded": {"temperature": 1, "seed": 3},
    "choices": {"seed": 3, "n": 3, "top_p": 0.9, "top_k": 40},
    "best": {"seed": 3, "best_of": 3},
    "penalties": {"temperature": 0, "repetition_penalty": 1.2, "frequency_penalty": 0.4, "presence_penalty": 0.3},
    "bias": {"temperature": 0, "logit_bias": {"65": 50}, "bad_words": ["AA"]},
    "guided": {"seed": 1, "guided_regex": "[a-c]{4}[0-9]{2}"},
    "logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 3},
    "stopped": {"temperature": 0, "logit_bias": {"65": 50}, "stop": ["AAA"]},
    "beams": {"temperature": 0, "n": 2, "use_beam_search": True},
    "prompt": {"temperature": 0, "prompt_logprobs": 1},
}
WHOLE = [{**COMMON, **fields} for fields in REQUESTS.values()]


@pytest.fixture(scope="module")
def generate(chats: NewChat) -> Chat:
    return chats("generate")


@pytest.fixture(scope="module")
def expected(generate: Chat) -> dict[str, list[Any]]:
    """What ``generate`` says to each request alone."""
    return {name: essence(generate.complete({**COMMON, **fields})) for name, fields in REQUESTS.items()}


@pytest.fixture(scope="module")
def continuous(chats: NewChat) -> Chat:
    return chats("continuous")


def essence(answer: Any) -> list[Any]:
    """What must be the same: the tokens, and why they end."""
    return [(choice.token_ids, choice.finish_reason, choice.stop_reason) for choice in answer.choices]


def test_the_model_is_on_the_device(device: torch.device, generate: Chat, continuous: Chat) -> None:
    assert [chat.model.require_module().device.type for chat in (generate, continuous)] == [device.type] * 2
    assert [chat.engine.name for chat in (generate, continuous)] == ["generate", "continuous"]


@pytest.mark.parametrize("name", REQUESTS)
def test_continuous_gives_the_tokens_of_generate(name: str, expected: dict[str, list[Any]], continuous: Chat) -> None:
    assert essence(continuous.complete({**COMMON, **REQUESTS[name]})) == expected[name]
    assert all(token_ids for token_ids, _, _ in expected[name])


@pytest.mark.parametrize("engine", ["generate", "continuous"])
def test_a_batch_gives_what_each_gives_alone(
    engine: str, request: pytest.FixtureRequest, expected: dict[str, list[Any]]
) -> None:
    chat: Chat = request.getfixturevalue(engine)
    assert [essence(answer) for answer in chat.complete_batch(WHOLE)] == [*expected.values()]


def test_many_at_once_give_what_each_gives_alone(expected: dict[str, list[Any]], continuous: Chat) -> None:
    many = [{**each, "cache_salt": str(turn)} for turn in range(2) for each in WHOLE]

    async def ask() -> list[Any]:
        return await asyncio.wait_for(asyncio.gather(*(continuous.acomplete(each) for each in many)), 100)

    assert [essence(answer) for answer in asyncio.run(ask())] == [*expected.values()] * 2


@pytest.mark.parametrize("engine", ["generate", "continuous"])
def test_a_stream_has_the_tokens_of_the_whole_answer(engine: str, request: pytest.FixtureRequest) -> None:
    chat: Chat = request.getfixturevalue(engine)
    with chat.stream({**COMMON, "temperature": 0}) as stream:
        found = [token for chunk in stream for choice in chunk.choices for token in choice.token_ids or ()]
    assert found == chat.complete({**COMMON, "temperature": 0}).choices[0].token_ids


@pytest.mark.parametrize("name", ["greedy", "longer", "seeded", "guided", "penalties"])
def test_the_device_gives_the_tokens_of_the_cpu(name: str, chats: NewChat, expected: dict[str, list[Any]]) -> None:
    """In float32; the tiny model's first choices lie far apart."""
    assert essence(chats("generate", on="cpu").complete({**COMMON, **REQUESTS[name]})) == expected[name]


def test_a_cancelled_stream_leaves_nothing_behind(continuous: Chat) -> None:
    engine: Any = continuous.engine
    with continuous.stream({**COMMON, "temperature": 0, "ignore_eos": True, "max_tokens": 900}) as stream:
        next(iter(stream))
    assert continuous.complete({**COMMON, "temperature": 0}).choices[0].token_ids
    wait_until(lambda: engine.stats().running == 0, what="the loop holds a request that nobody waits for")
