"""Tokens a second of both engines beside transformers' own ``generate_batch``, in this process, without HTTP.

    python tests/benchmarks/gpu/engines.py [--size 1b] [--clients 1,32,256] [--tokens 128] [--quick]

First both engines have to give the tokens of ``model.generate``, on a small model in float32. Then each client sends
one request, all at the same time: greedy, with a prompt of its own of about 100 tokens, and an answer of ``--tokens``.
The model has random weights in bfloat16. ``continuous`` is for clients that wait each for its own answer, ``generate``
gets all of them as one batch, and so does ``generate_batch``. The exit code is 1 where tokens differ.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
from transformers.generation.configuration_utils import ContinuousBatchingConfig
from transformers.utils import logging

from chatplan import Chat, ModelInfo, Settings
from chatplan.adapters.bench.words import some_words
from chatplan.standin import stand_in

sys.path.append(str(Path(__file__).parents[1]))
from quick import arguments, parsed

# Hidden size, layers, heads, heads of keys and values, width of the feed-forward layers, vocabulary.
SIZES = {
    "tiny": (64, 2, 4, 2, 128, 300),
    "135m": (576, 30, 9, 3, 1536, 49_152),
    "1b": (2048, 16, 32, 8, 8192, 128_256),
    "3b": (3072, 28, 24, 8, 8192, 128_256),
    "8b": (4096, 32, 32, 8, 14_336, 128_256),
}
CONTEXT = 4096
Messages = list[dict[str, str]]


def new_model(size: str, device: str, dtype: torch.dtype) -> Any:
    """A Llama of this size; the same weights in every run on one device."""
    hidden, layers, heads, groups, inner, vocabulary = SIZES[size]
    tokenizer = stand_in().tokenizer
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        intermediate_size=inner,
        vocab_size=vocabulary,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=size != "tiny",
        initializer_range=0.2 if size == "tiny" else 0.02,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=dtype,
    )
    torch.manual_seed(1)
    with torch.device(device):
        model: Any = LlamaForCausalLM(config)
        return model.to(dtype).eval()


def new_chat(model: Any, engine: str, rows: int) -> Chat:
    settings = Settings(
        max_model_len=CONTEXT, batch_size=rows, max_num_seqs=rows, max_num_batched_tokens=max(rows, 2048)
    )
    return Chat(ModelInfo.of(model, stand_in().tokenizer, settings, name="random"), engine=engine)


def conversations(count: int, name: str) -> list[Messages]:
    """One for each client, which begins with words of its own."""
    return [[{"role": "user", "content": some_words(14, f"{name} {number}")}] for number in range(count)]


def freed(device: str) -> None:
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()


def asked(tokens: int) -> dict[str, Any]:
    return {"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "return_token_ids": True}


# --- the same tokens --------------------------------------------------------------------------------------------------


def same_tokens(device: str, tokens: int) -> bool:
    """Whether both engines give what ``model.generate`` gives, alone and at once; prints it."""
    model = new_model("tiny", device, torch.float32)
    talks = conversations(4, "same")
    good = True
    plain: list[list[int]] = []
    for engine in ("generate", "continuous"):
        chat = new_chat(model, engine, len(talks))
        plain = plain or [bare(chat, talk, tokens) for talk in talks]
        alone = [ids_of(chat.complete(talk, **asked(tokens))) for talk in talks]
        together = asyncio.run(at_once(chat, talks, tokens))
        same = alone == plain and together == plain
        print(f"{engine}: {'the same tokens as' if same else 'OTHER TOKENS THAN'} model.generate", flush=True)
        good &= same
        chat.close()
    return good


def bare(chat: Chat, talk: Messages, tokens: int) -> list[int]:
    """``model.generate`` by hand."""
    model: Any = chat.model.require_module()
    ids = torch.tensor([chat.plan(talk).prompt.token_ids], device=model.device)
    config = GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0)
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    found: list[int] = output[0, ids.shape[1] :].tolist()
    return found


def ids_of(answer: Any) -> list[int]:
    return list(answer.choices[0].token_ids)


async def at_once(chat: Chat, talks: Sequence[Messages], tokens: int) -> list[list[int]]:
    """Every client waits for its own answer."""
    answers = await asyncio.gather(*(chat.acomplete(talk, **asked(tokens)) for talk in talks))
    return [ids_of(answer) for answer in answers]


# --- tokens a second --------------------------------------------------------------------------------------------------


def engine_rate(engine: str, model: Any, clients: int, tokens: int) -> float:
    """Of the second of two rounds."""
    chat = new_chat(model, engine, max(clients, 1))
    try:
        rate = 0.0
        for name in ("warm-up", "measured"):
            talks = conversations(clients, f"{name} {clients}")
            start = time.perf_counter()
            if engine == "generate":
                found = [ids_of(answer) for answer in chat.complete_batch(talks, **asked(tokens))]
            else:
                found = asyncio.run(at_once(chat, talks, tokens))
            rate = sum(map(len, found)) / (time.perf_counter() - start)
            assert [len(ids) for ids in found] == [tokens] * clients
        return rate
    finally:
        chat.close()


def peer_rate(model: Any, clients: int, tokens: int) -> float:
    """``generate_batch``, from its first request to its last token: what it does before that is not counted."""
    plans = new_chat(model, "generate", 1)
    prompts = [list(plans.plan(talk).prompt.token_ids) for talk in conversations(clients, f"measured {clients}")]
    config = GenerationConfig(do_sample=False, max_new_tokens=tokens, eos_token_id=-1, pad_token_id=0)
    attention = model.config._attn_implementation
    # By itself it would take nearly all of a computer's memory.
    own = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=512) if model.device.type == "cpu" else None
    try:
        done = model.generate_batch(
            prompts, generation_config=config, continuous_batching_config=own, record_timestamps=True
        )
        found = [*done.values()]
    finally:
        model.set_attn_implementation(attention)
    assert [len(each.generated_tokens) for each in found] == [tokens] * clients
    seconds = max(each.timestamps[-1] for each in found) - min(each.created_time for each in found)
    return clients * tokens / float(seconds)


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def options() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--size", choices=SIZES, default="1b", help="of the model that is made")
    parser.add_argument("--clients", type=numbers, default=[1, 32, 256])
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=240, help="no other level of load begins after these")
    return parsed(parser, size="tiny", clients=[1, 3], tokens=4, device=os.environ.get("CHATPLAN_TEST_DEVICE", "cpu"))


def main() -> None:
    given, began = options(), time.monotonic()
    logging.set_verbosity_error()  # it warns of the end token that does not exist
    good = same_tokens(given.device, min(given.tokens, 16))
    freed(given.device)
    model = new_model(given.size, given.device, torch.bfloat16)
    about = torch.cuda.get_device_name(0) if given.device.startswith("cuda") else given.device
    print(f"{sum(each.numel() for each in model.parameters()) / 1e9:.2f} billion weights, {about}, tokens/s")
    rates: dict[str, Callable[[int], float]] = {
        "generate": lambda clients: engine_rate("generate", model, clients, given.tokens),
        "continuous": lambda clients: engine_rate("continuous", model, clients, given.tokens),
        "generate_batch": lambda clients: peer_rate(model, clients, given.tokens),
    }
    print(f"{'clients':>8}" + "".join(f"{name:>16}" for name in rates) + f"{'continuous ÷ generate_batch':>30}")
    for clients in given.clients:
        if time.monotonic() - began > given.seconds:
            print(f"{clients:8}  no time left")
            continue
        found = {}
        for name, rate in rates.items():
            found[name] = rate(clients)
            freed(given.device)
        line = f"{clients:8}" + "".join(f"{value:16.1f}" for value in found.values())
        print(f"{line}{found['continuous'] / found['generate_batch']:30.2f}", flush=True)
    sys.exit(not good)


if __name__ == "__main__":
    main()
