"""The tiny model as a checkpoint, which processes can load."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from chatplan.standin import stand_in


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: LlamaForCausalLM) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_model.save_pretrained(folder)
    stand_in().tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def offload(tmp_path: Path) -> str:
    return str(tmp_path / "offload")
