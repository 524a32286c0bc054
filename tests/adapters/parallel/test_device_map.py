"""Layers in memory and on disk, placed by accelerate: the same tokens as the whole model."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan import ChatPipeline, pipeline

HELLO = [{"role": "user", "content": "Hello there"}]
MAP = {
    **dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "model.norm", "lm_head", "model.layers.0"), "cpu"),
    "model.layers.1": "disk",
}
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "seeded": {"seed": 3, "n": 2},
    "guided": {"guided_regex": "[a-c]{4}", "seed": 1},
    "beams": {"use_beam_search": True, "n": 2, "temperature": 0},
    "prompt": {"prompt_logprobs": 1, "temperature": 0},
}


@pytest.fixture(scope="module")
def whole(checkpoint: str) -> ChatPipeline:
    return pipeline("chat", model=checkpoint)


@pytest.fixture(scope="module")
def placed(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> ChatPipeline:
    folder = str(tmp_path_factory.mktemp("offload"))
    return pipeline("chat", model=checkpoint, device_map=MAP, offload_folder=folder)


def places(model: Any) -> set[str]:
    return {str(place) for place in model.hf_device_map.values()}


def tokens(answer: Any) -> list[Any]:
    return [choice.token_ids for choice in answer.choices]


@pytest.mark.parametrize("name", REQUESTS)
def test_same_tokens_as_the_whole_model(name: str, whole: ChatPipeline, placed: ChatPipeline) -> None:
    fields = {**REQUESTS[name], "max_tokens": 8, "return_token_ids": True}
    expected, found = whole(HELLO, **fields), placed(HELLO, **fields)
    assert tokens(found) == tokens(expected)
    assert found.prompt_logprobs == expected.prompt_logprobs
    assert places(placed.model) == {"cpu", "disk"}


def test_batch_and_stream(whole: ChatPipeline, placed: ChatPipeline) -> None:
    batch = [HELLO, [{"role": "user", "content": "A prompt of another length"}]]
    fields = {"temperature": 0, "max_tokens": 6, "return_token_ids": True}
    expected = [tokens(answer) for answer in whole(batch, **fields)]
    assert [tokens(answer) for answer in placed(batch, **fields)] == expected
    streamed = [token for chunk in placed(HELLO, stream=True, **fields) for choice in chunk.choices
                for token in choice.token_ids or ()]  # fmt: skip
    assert streamed == expected[0][0]


def test_model_kwargs_as_transformers_has_them(checkpoint: str, offload: str, whole: ChatPipeline) -> None:
    memory = {"max_memory": {"cpu": "100KB"}, "offload_folder": offload}
    chat = pipeline("chat", model=checkpoint, device_map="auto", model_kwargs=memory)
    assert places(chat.model) == {"cpu", "disk"}
    fields = {"temperature": 0, "max_tokens": 4}
    assert chat(HELLO, **fields).text == whole(HELLO, **fields).text
