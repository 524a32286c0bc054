"""A model on two devices says what it says on one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from chatplan import pipeline

pytestmark = [pytest.mark.gpu, pytest.mark.dev_only, pytest.mark.slow]
COMMON: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 10,
                          "return_token_ids": True}  # fmt: skip
REQUESTS: list[dict[str, Any]] = [
    {**COMMON, "temperature": 0},
    {**COMMON, "seed": 3, "n": 2},
    {**COMMON, "seed": 1, "guided_regex": "[a-c]{4}"},
    {**COMMON, "temperature": 0, "use_beam_search": True, "n": 2},
]


def tokens(answer: Any) -> list[Any]:
    return [choice.token_ids for choice in answer.choices]


def test_two_devices_give_the_tokens_of_one(device: torch.device, checkpoint: str) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        pytest.skip("no second CUDA device")
    whole = pipeline("chat", model=checkpoint, dtype=torch.float32, device=device)
    expected = [tokens(whole(request)) for request in REQUESTS]
    chat = pipeline("chat", model=checkpoint, dtype=torch.float32, tensor_parallel_size=2)
    try:
        assert chat.chat.engine.name == "tensor_parallel"
        assert chat.model.device.type == device.type
        assert [tokens(chat(request)) for request in REQUESTS] == expected
        assert [tokens(answer) for answer in chat(REQUESTS)] == expected
    finally:
        chat.chat.close()
