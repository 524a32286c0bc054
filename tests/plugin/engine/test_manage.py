"""How continuous batching is set up: how large its cache is, whose attention it uses, and what it cannot run."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chatplan import ModelInfo, Settings
from chatplan.standin import stand_in

# Older transformers have no continuous batching to set up.
manage = pytest.importorskip("chatplan.engine.manage", exc_type=ImportError)

pytestmark = pytest.mark.dev_only
NewModel = Callable[[], Any]
PAGE = 32
BLOCK = 2 * PAGE * 2 * 2 * 8 * 4  # bytes of a page: keys and values, layers, heads, their width, float32


def about(model: Any, **settings: Any) -> ModelInfo:
    return ModelInfo.of(model, stand_in().tokenizer, Settings(**settings))


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        ({"kv_cache_bytes": 10 * BLOCK}, 10),
        ({"kv_cache_bytes": 10 * BLOCK - 1}, 9),
        ({"kv_cache_bytes": 1}, 1),
        ({}, 64 * 32),  # as many contexts of 1024 tokens as rows can run at once
        ({"max_num_seqs": 5}, 5 * 32),
        ({"max_num_seqs": 1}, 2 * 32),  # room for two, so that one long answer does not stop all others
        ({"max_num_seqs": 5, "max_model_len": 33}, 5 * 2),
        ({"max_num_seqs": 5, "max_model_len": 32}, 5 * 1),
    ],
    ids=str,
)
def test_the_size_of_the_cache(new_model: NewModel, settings: dict[str, Any], blocks: int) -> None:
    assert manage.cache_blocks(about(new_model(), **settings)) == blocks


def test_the_cache_takes_no_more_than_its_memory_but_for_two_contexts(
    new_model: NewModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = new_model()
    monkeypatch.setattr(manage, "_CACHE_BYTES", 100 * BLOCK)
    assert manage.cache_blocks(about(model)) == 100
    monkeypatch.setattr(manage, "_CACHE_BYTES", 50 * BLOCK)
    assert manage.cache_blocks(about(model)) == 64
    assert manage.cache_blocks(about(model.to(torch.bfloat16), max_model_len=512)) == 100
    info = about(model)
    nowhere = SimpleNamespace(require_module=info.require_module, settings=info.settings, context_length=None)
    assert manage.cache_blocks(nowhere) == 100


def test_on_other_devices_transformers_takes_what_is_left(new_model: NewModel) -> None:
    elsewhere = about(new_model().to("meta"))
    assert manage.cache_blocks(elsewhere) is None
    assert not manage.runs_on_cpu(elsewhere)
    assert manage.cache_blocks(about(new_model().to("meta"), kv_cache_bytes=3 * BLOCK)) == 3


@pytest.mark.parametrize(
    ("attributes", "ours"),
    [
        ({}, True),
        ({"layer_types": ["full_attention", "full_attention"]}, True),
        ({"layer_types": ["full_attention", "sliding_attention"]}, False),
        ({"sliding_window": 128}, False),
        ({"attn_logit_softcapping": 50.0}, False),
    ],
    ids=str,
)
def test_our_attention_serves_plain_layers(new_model: NewModel, attributes: dict[str, Any], ours: bool) -> None:
    model = new_model()
    for name, value in attributes.items():
        setattr(model.config, name, value)
    assert manage.runs_on_cpu(about(model)) is ours


def test_settings_become_transformers_own(new_model: NewModel) -> None:
    model = new_model()
    given = {"max_num_batched_tokens": 40, "max_num_seqs": 7, "enable_prefix_caching": False}
    made = manage.batching_config(about(model, kv_cache_bytes=9 * BLOCK, **given))
    assert (made.max_batch_tokens, made.max_requests_per_batch, made.allow_block_sharing) == (40, 7, False)
    assert (made.num_blocks, made.page_size) == (9, PAGE)
    assert made.scheduler_type == "fifo"
    assert manage.batching_config(about(model, max_num_batched_tokens=3, max_num_seqs=7)).max_requests_per_batch == 3
    urgent = manage.batching_config(about(model, scheduling_policy="priority"))
    assert (urgent.scheduler_type, urgent.safety_margin) == ("chatplan_priority", 0.0)
    assert urgent.allow_block_sharing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"_is_stateful": True}, "its state is no cache of keys and values"),
        ({"_supports_attention_backend": False}, "its attention cannot be replaced"),
        ({"hf_device_map": {"a": "cpu", "b": "disk"}}, "it is spread over cpu, disk"),
        ({"hf_device_map": {"a": "disk"}}, "it is spread over disk"),
        ({"hf_device_map": {"a": 0, "b": 1}}, "it is spread over 0, 1"),
        ({"hf_device_map": {"a": "cpu", "b": "cpu"}}, None),
        ({}, None),
    ],
    ids=str,
)
def test_what_it_cannot_run(new_model: NewModel, change: dict[str, Any], reason: str | None) -> None:
    model = new_model()
    for name, value in change.items():
        setattr(model, name, value)
    assert manage.why_not(about(model)) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_encoder_decoder": True}, "it has an encoder"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "its layers are full_attention, linear_attention"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, None),
    ],
    ids=str,
)
def test_what_its_configuration_rules_out(new_model: NewModel, change: dict[str, Any], reason: str | None) -> None:
    model = new_model()
    for name, value in change.items():
        setattr(model.config, name, value)
    assert manage.why_not(about(model)) == reason


def test_sampling_values_of_a_checkpoint_are_no_processors_of_its_own(new_model: NewModel) -> None:
    model = new_model()
    for name, value in {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1,
                        "repetition_penalty": 1.2, "num_beams": 3, "min_length": 4}.items():  # fmt: skip
        setattr(model.generation_config, name, value)
    assert manage.why_not(about(model)) is None
    model.generation_config.suppress_tokens = [5]
    assert manage.why_not(about(model)) == "its generation config asks for SuppressTokensLogitsProcessor"


def test_older_transformers_are_refused(new_model: NewModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "5.22.9")
    assert manage.why_not(about(new_model())) == "needs transformers 5.23"
    for version in ("5.23.0", "5.23.0.dev0", "6.0.0"):
        monkeypatch.setattr("transformers.__version__", version)
        assert manage.why_not(about(new_model())) is None
