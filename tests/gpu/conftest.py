"""The device of these tests. ``pytest -m gpu`` runs them on CUDA; CHATPLAN_TEST_DEVICE=cpu runs them anywhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from chatplan import Chat, ModelInfo, Settings
from chatplan.standin import stand_in

ENOUGH = 2**24  # bytes of cache, so that engines can stand side by side

NewChat = Callable[..., Chat]


@pytest.fixture(scope="session", autouse=True)
def device() -> torch.device:
    """Where the tests of this folder run; they are skipped where there is none."""
    name = os.environ.get("CHATPLAN_TEST_DEVICE") or ("cuda" if torch.cuda.is_available() else None)
    if name is None:
        pytest.skip("no CUDA device")
    return torch.device(name)


@pytest.fixture
def cuda(device: torch.device) -> torch.device:
    """For what only CUDA has."""
    if device.type != "cuda":
        pytest.skip(f"no CUDA device: CHATPLAN_TEST_DEVICE is {device}")
    return device


@pytest.fixture(scope="session")
def checkpoint(device: torch.device, tmp_path_factory: pytest.TempPathFactory, tiny_model: LlamaForCausalLM) -> str:
    """The tiny model, for processes to load."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    stand_in().tokenizer.save_pretrained(folder)
    return str(Path(folder))


@pytest.fixture(scope="module")
def chats(device: torch.device, new_model: Callable[[], Any]) -> Iterator[NewChat]:
    """Makes chats with the tiny model, each with its own copy; ``on`` is where, if not the device of the tests."""
    made: list[Chat] = []

    def new(engine: str, on: str | None = None, **settings: Any) -> Chat:
        model = new_model().to(on or device)
        about = ModelInfo.of(model, stand_in().tokenizer, Settings(**{"kv_cache_bytes": ENOUGH, **settings}))
        made.append(Chat(about, engine=engine))
        return made[-1]

    yield new
    for chat in made:
        chat.close()
