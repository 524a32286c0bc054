"""How large the paged cache is: what a setting says, or what the device has left."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from chatplan import Chat, EngineError, ModelInfo, Settings
from chatplan.engine.manage import PAGE, cache_blocks
from chatplan.standin import stand_in

pytestmark = [pytest.mark.gpu, pytest.mark.dev_only]
NewChat = Callable[..., Chat]
BLOCK = 2 * PAGE * 2 * 2 * 8 * 4  # of the tiny model, in bytes: keys and values, layers, heads, their width, float32


def cache_of(chat: Chat) -> Any:
    engine: Any = chat.engine
    return engine.loop.cache


@contextmanager
def wide(on: torch.device) -> Iterator[Any]:
    """The cache of a model whose tokens take much of it, so that a large one has few blocks; gone at the end."""
    config = LlamaConfig(vocab_size=300, hidden_size=2048, intermediate_size=32, num_hidden_layers=8,
                         num_attention_heads=16, num_key_value_heads=16, max_position_embeddings=1024)  # fmt: skip
    with on:
        model: Any = LlamaForCausalLM(config).bfloat16().eval()
    chat = Chat(ModelInfo.of(model, stand_in().tokenizer, Settings()), engine="continuous")
    try:
        yield cache_of(chat)
    finally:
        chat.close()
        del chat, model
        gc.collect()
        torch.cuda.empty_cache()


def test_the_setting_is_the_size(chats: NewChat) -> None:
    chat = chats("continuous", kv_cache_bytes=100 * BLOCK + BLOCK // 2)
    assert cache_blocks(chat.model) == 100
    assert cache_of(chat).num_blocks == 100
    assert cache_of(chat).cache_tensor.nbytes <= 103 * BLOCK  # two blocks that transformers never gives away


def test_the_cache_is_on_the_device(device: torch.device, chats: NewChat) -> None:
    assert cache_of(chats("continuous")).cache_tensor.device.type == device.type


def test_too_small_for_one_context_is_said_at_the_start(chats: NewChat) -> None:
    with pytest.raises(EngineError, match="raise kv_cache_bytes or lower max_model_len"):
        chats("continuous", kv_cache_bytes=31 * BLOCK)  # 1024 tokens are 32 blocks


def test_an_engine_that_is_closed_gives_its_cache_back(chats: NewChat) -> None:
    chat = Chat(chats("generate").model, engine="continuous")
    kept = weakref.ref(cache_of(chat).cache_tensor)
    assert kept() is not None
    chat.close()
    del chat
    gc.collect()
    assert kept() is None


def test_without_a_setting_the_cache_is_most_of_what_is_left(cuda: torch.device) -> None:
    free, _ = torch.cuda.mem_get_info(cuda)
    with wide(cuda) as cache:
        assert 0.3 * free < cache.cache_tensor.nbytes < 0.95 * free
        left, _ = torch.cuda.mem_get_info(cuda)
        assert left > 0.02 * free  # for what a step computes


def test_memory_that_others_hold_is_not_counted(cuda: torch.device) -> None:
    free, _ = torch.cuda.mem_get_info(cuda)
    with wide(cuda) as cache:
        alone = cache.num_blocks
        del cache
    ballast = torch.empty(free // 2, dtype=torch.uint8, device=cuda)
    with wide(cuda) as cache:
        assert 0.3 * alone < cache.num_blocks < 0.7 * alone
    del ballast
    torch.cuda.empty_cache()
