"""What hooks may know of a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig, GPT2Config, LlamaConfig, LlamaForCausalLM, MptConfig

from chatplan.errors import EngineError
from chatplan.model import ModelInfo
from chatplan.settings import Settings
from chatplan.standin import stand_in

TOKENIZER: Any = stand_in().tokenizer
SMALL: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
}


def info(config: Any = None, generation: Any = None, tokenizer: Any = TOKENIZER, **settings: Any) -> ModelInfo:
    return ModelInfo("some/model", tokenizer, config, generation, settings=Settings(**settings))


def limited(length: int) -> Any:
    tokenizer = copy.deepcopy(TOKENIZER)
    tokenizer.model_max_length = length
    return tokenizer


def with_ids(**ids: int | None) -> Any:
    """A stand-in for a tokenizer that has these ids and nothing else."""
    return type("Ids", (), {"eos_token_id": None, "pad_token_id": None, **ids})()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint with weights, a tokenizer and a generation config."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    model.generation_config = GenerationConfig(eos_token_id=[257, 256], temperature=0.3, top_p=0.8, do_sample=True)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "tokenizer", "setting", "length"),
    [
        (LlamaConfig(max_position_embeddings=512), TOKENIZER, None, 512),
        (GPT2Config(n_positions=128), TOKENIZER, None, 128),
        (MptConfig(max_seq_len=64), TOKENIZER, None, 64),
        (LlamaConfig(max_position_embeddings=512), TOKENIZER, 100, 100),
        (LlamaConfig(max_position_embeddings=512), TOKENIZER, 1000, 512),
        (LlamaConfig(max_position_embeddings=512), limited(77), None, 512),  # what the model states comes first
        (None, limited(77), None, 77),
        (None, limited(77), 50, 50),
        (None, TOKENIZER, 50, 50),
        (None, TOKENIZER, None, None),  # a tokenizer without a limit states a huge number
    ],
)
def test_context_length(config: Any, tokenizer: Any, setting: int | None, length: int | None) -> None:
    assert info(config, None, tokenizer, max_model_len=setting).context_length == length


def test_vocabulary_is_as_wide_as_the_logits() -> None:
    assert info(LlamaConfig(vocab_size=300)).vocab_size == 300
    assert info().vocab_size is None


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "generation", "tokenizer", "ids"),
    [
        (LlamaConfig(eos_token_id=5), GenerationConfig(eos_token_id=[7, 8]), TOKENIZER, (7, 8, 257)),
        (LlamaConfig(eos_token_id=5), GenerationConfig(eos_token_id=7), TOKENIZER, (7, 257)),
        (LlamaConfig(eos_token_id=5), GenerationConfig(), TOKENIZER, (5, 257)),
        (LlamaConfig(eos_token_id=[5, 6]), None, TOKENIZER, (5, 6, 257)),
        (LlamaConfig(eos_token_id=None), GenerationConfig(), TOKENIZER, (257,)),
        (None, None, with_ids(), ()),
        (None, None, with_ids(eos_token_id=0), (0,)),
    ],
)
def test_tokens_that_end_an_answer(config: Any, generation: Any, tokenizer: Any, ids: tuple[int, ...]) -> None:
    assert info(config, generation, tokenizer).eos_token_ids == ids


def test_padding() -> None:
    assert info().pad_token_id == TOKENIZER.pad_token_id == 256
    assert info(tokenizer=with_ids(pad_token_id=0, eos_token_id=3)).pad_token_id == 0
    assert info(tokenizer=with_ids(eos_token_id=3)).pad_token_id == 3
    assert info(tokenizer=with_ids()).pad_token_id == 0


# --- the checkpoint's own defaults ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "defaults"),
    [
        (None, {}),
        (GenerationConfig(), {}),
        (GenerationConfig(eos_token_id=1), {}),
        (
            GenerationConfig(do_sample=True, temperature=0.6, top_p=0.9, top_k=20, min_p=0.1, repetition_penalty=1.1),
            {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.1},
        ),
    ],
)
def test_sampling_defaults_are_those_the_checkpoint_states(generation: Any, defaults: dict[str, Any]) -> None:
    assert info(generation=generation).sampling_defaults == defaults


def test_bound_on_new_tokens() -> None:
    assert info(generation=GenerationConfig(max_new_tokens=9)).default_max_new_tokens == 9
    assert info(generation=GenerationConfig()).default_max_new_tokens is None
    assert info().default_max_new_tokens is None


# --- names ------------------------------------------------------------------------------------------------------------


def test_names() -> None:
    assert info().names == ("some/model", "model")
    assert stand_in("x").names == ("x", "x")


def test_a_loaded_model() -> None:
    module = LlamaForCausalLM(LlamaConfig(**SMALL))
    made = ModelInfo.of(module, TOKENIZER, Settings(batch_size=2))
    assert (made.name, made.context_length, made.settings.batch_size) == ("LlamaForCausalLM", 512, 2)
    assert made.require_module() is module
    assert made.generation_config is module.generation_config
    assert ModelInfo.of(module, TOKENIZER, name="served").names == ("served", "served")


# --- without weights --------------------------------------------------------------------------------------------------


def test_a_checkpoint_without_its_weights(checkpoint: Path) -> None:
    (weights,) = checkpoint.glob("*.safetensors")
    hidden = weights.rename(weights.with_suffix(".gone"))
    try:
        made = ModelInfo.without_weights(str(checkpoint), Settings(max_logprobs=3))
    finally:
        hidden.rename(weights)
    assert made.names == (str(checkpoint), "tiny")
    assert (made.context_length, made.vocab_size, made.eos_token_ids) == (512, 259, (257, 256))
    assert made.sampling_defaults == {"temperature": 0.3, "top_p": 0.8}
    assert made.settings.max_logprobs == 3
    assert made.tokenizer.encode("A", add_special_tokens=False) == TOKENIZER.encode("A", add_special_tokens=False)


def test_a_checkpoint_without_a_generation_config(checkpoint: Path, tmp_path: Path) -> None:
    LlamaConfig(**SMALL, eos_token_id=9).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    made = ModelInfo.without_weights(str(tmp_path))
    assert (made.eos_token_ids, made.sampling_defaults) == ((9, 257), {})


def test_a_description_cannot_generate() -> None:
    with pytest.raises(EngineError, match="the weights of stand-in are not loaded"):
        stand_in().require_module()


def test_single_tokens() -> None:
    made = info()
    assert made.token_text(257) == "<|im_end|>"
    assert made.token_text(TOKENIZER.encode("A", add_special_tokens=False)[0]) == "A"
    assert made.tokens is made.tokens
