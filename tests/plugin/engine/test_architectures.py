"""Any causal LM: each answer of a batch is the one the request gets alone, whatever the model does about padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from chatplan import Chat, ChatCompletion, ModelInfo, Settings
from chatplan.standin import stand_in

SIZES = {"vocab_size": 265, "hidden_size": 64, "num_hidden_layers": 2}
HEADS = SIZES | {"num_attention_heads": 4}
GATED = HEADS | {"intermediate_size": 96, "num_key_value_heads": 2}
GPT = {"vocab_size": 265, "n_embd": 64, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 1}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "LlamaConfig": GATED,
    "MistralConfig": GATED | {"sliding_window": 16},
    "Qwen2Config": GATED,
    "Qwen3Config": GATED | {"head_dim": 16},
    "Gemma2Config": GATED | {"head_dim": 16, "sliding_window": 16},
    "Gemma3TextConfig": GATED | {"head_dim": 16, "sliding_window": 16},
    "MixtralConfig": GATED | {"num_local_experts": 4},
    "GPT2Config": GPT,
    "BloomConfig": {"vocab_size": 265, "hidden_size": 64, "n_layer": 2, "n_head": 4},
    "OPTConfig": HEADS | {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "FalconConfig": HEADS,
    "PhiConfig": HEADS | {"intermediate_size": 96},
    "GPTNeoXConfig": HEADS | {"intermediate_size": 96},
    "MambaConfig": SIZES | {"state_size": 8},
    "RecurrentGemmaConfig": HEADS
    | {"intermediate_size": 96, "num_hidden_layers": 3, "lru_width": 64, "attention_window_size": 32},
}

REQUESTS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "hi"}], "temperature": 0, "max_tokens": 10, "ignore_eos": True},
    {
        "messages": [{"role": "user", "content": "a message that is a good deal longer than the others"}],
        "seed": 3,
        "n": 2,
        "temperature": 1.5,
        "top_k": 50,
        "repetition_penalty": 1.2,
        "max_tokens": 14,
        "logprobs": True,
    },
    {"messages": [{"role": "user", "content": "hello there"}], "temperature": 0, "max_tokens": 8, "prompt_logprobs": 1},
]


# In transformers 4.51 this model fails by itself on prompts longer than its window.
_NEEDS_5 = {"RecurrentGemmaConfig"}


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.dev_only if n in _NEEDS_5 else ()) for n in ARCHITECTURES])
def chat(request: pytest.FixtureRequest) -> Chat:
    config = getattr(transformers, request.param)(**ARCHITECTURES[request.param])
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    return Chat(ModelInfo.of(model, stand_in().tokenizer, Settings(max_model_len=400), "tiny"))


def answers(completion: ChatCompletion) -> list[tuple[str | None, str | None]]:
    return [(choice.message.content, choice.finish_reason) for choice in completion.choices]


def test_batch_equals_alone(chat: Chat) -> None:
    alone = [answers(chat.complete(request)) for request in REQUESTS]
    together = [answers(completion) for completion in chat.complete_batch(REQUESTS)]
    assert together == alone
    assert any(text for text, _ in alone[1])


def test_beam_search(chat: Chat) -> None:
    completion = chat.complete(REQUESTS[0] | {"temperature": 1, "use_beam_search": True, "n": 3, "logprobs": True})
    sums = [sum(entry.logprob for entry in c.logprobs.content) for c in completion.choices if c.logprobs]
    assert len(sums) == 3
    # Equal lengths (EOS is ignored), so the order is that of the sums.
    assert sums == pytest.approx(sorted(sums, reverse=True), abs=1e-3)
