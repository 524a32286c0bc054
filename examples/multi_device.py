"""A model larger than one device: accelerate places its layers, chatplan does not notice.

python examples/multi_device.py
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from typing import Any

import torch

from chatplan import ChatPipeline, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def split_by_hand(folder: str) -> ChatPipeline:
    """The last five of thirty layers stay on disk and come to memory one at a time: slow, but it fits."""
    layers = {f"model.layers.{number}": "cpu" if number < 25 else "disk" for number in range(30)}
    rest = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    return pipeline("chat", model=MODEL, device_map={**layers, **rest}, model_kwargs={"offload_folder": folder})


def report(chat: ChatPipeline) -> None:
    placed: dict[str, Any] = getattr(chat.model, "hf_device_map", {"": chat.model.device})
    for device, parts in Counter(str(device) for device in placed.values()).items():
        print(f"{parts} parts on {device}")
    print(chat(QUESTION, temperature=0, max_tokens=16).text)


def main() -> None:
    if torch.cuda.is_available():
        print('device_map="auto" fills the GPUs first, then memory, then disk')
        report(pipeline("chat", model=MODEL, device_map="auto"))
        return
    print("there is no GPU here, so this map is made by hand: memory and disk")
    with tempfile.TemporaryDirectory() as folder:
        report(split_by_hand(folder))


if __name__ == "__main__":
    main()
