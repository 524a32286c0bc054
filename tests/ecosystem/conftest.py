"""A small checkpoint on disk, and a server that has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from chatplan.standin import stand_in

# Read when these packages are imported: nothing is reported to anybody, and nothing is fetched.
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LANGSMITH_TRACING": "false",
}


@pytest.fixture(scope="session")
def tiny_folder(new_model: Callable[[], LlamaForCausalLM], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model and its tokenizer, as a checkpoint; it writes ASCII, since half characters are left out."""
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    model, tokenizer = new_model(), stand_in().tokenizer
    with torch.no_grad():
        for token in range(256):
            text = str(tokenizer.decode([token]))
            if not (text.isascii() and text.isprintable()):
                model.lm_head.weight[token] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
