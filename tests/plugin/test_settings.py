"""What is decided when a model is loaded."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from chatplan.settings import Settings


def test_defaults() -> None:
    assert dataclasses.asdict(Settings()) == {
        "logprobs_mode": "raw",
        "max_logprobs": 20,
        "max_stop": 64,
        "batch_size": 16,
        "max_model_len": None,
        "guided_seconds": 5.0,
        "guided_bytes": 262144,
        "guided_cache_bytes": 268435456,
        "scheduling_policy": "fcfs",
        "max_num_seqs": 64,
        "max_num_batched_tokens": 512,
        "kv_cache_bytes": None,
        "enable_prefix_caching": True,
        "trust_request_chat_template": True,
        "pack_weights": None,
        "tool_call_parser": None,
    }


@pytest.mark.parametrize(
    "values",
    [
        {"logprobs_mode": "processed"},
        {"max_logprobs": -1},
        {"max_logprobs": 0},
        {"max_stop": 0},
        {"batch_size": 1},
        {"max_model_len": 1},
        {"guided_bytes": 1},
        {"guided_seconds": 0.001},
        {"max_num_seqs": 1},
        {"max_num_batched_tokens": 1},
        {"kv_cache_bytes": 1},
        {"scheduling_policy": "priority"},
    ],
)
def test_what_is_allowed(values: dict[str, Any]) -> None:
    assert {name: getattr(Settings(**values), name) for name in values} == values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logprobs_mode", "cooked"),
        ("logprobs_mode", None),
        ("batch_size", 0),
        ("scheduling_policy", "lottery"),
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", 0),
        ("kv_cache_bytes", 0),
        ("max_model_len", 0),
        ("max_logprobs", -2),
        ("max_stop", -1),
        ("guided_bytes", 0),
        ("guided_seconds", 0),
        ("guided_seconds", -0.5),
    ],
)
def test_what_is_refused_names_the_setting_and_its_value(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .*{value}"):
        Settings(**{name: value})


def test_every_setting_is_explained() -> None:
    assert all(f"{item.name}: " in (Settings.__doc__ or "") for item in dataclasses.fields(Settings))


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().batch_size = 2  # type: ignore[misc]
