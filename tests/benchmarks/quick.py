"""What the programs share: ``--quick``, which runs all of a program in seconds and says nothing about speed."""

from __future__ import annotations

import argparse
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from functools import lru_cache
from pathlib import Path
from string import printable
from typing import Any

__all__ = ["MODEL", "Popen", "arguments", "checkpoint", "forks", "model", "parsed", "run"]

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# Set where tests/support/forked.py started us: it has imported already what our children would import again.
_FORKED = "FORKED_SOCKET"


def arguments(about: str | None) -> argparse.ArgumentParser:
    """A parser with ``--quick``; ``about`` is the program's docstring."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="in seconds, on a tiny model: only whether it works")
    return parser


def parsed(parser: argparse.ArgumentParser, **quick: Any) -> argparse.Namespace:
    """The options; with ``--quick``, those not given have these values."""
    if parser.parse_known_args()[0].quick:
        parser.set_defaults(**quick)
    return parser.parse_args()


def model(quick: bool) -> str:
    """The checkpoint to work on: the tiny one, or that of ``CHATPLAN_MODEL``."""
    return checkpoint() if quick else os.environ.get("CHATPLAN_MODEL", MODEL)


@lru_cache(maxsize=1)
def checkpoint() -> str:
    """The folder of a model of two layers and random weights whose tokens are bytes; it goes with this process."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from chatplan.standin import stand_in

    tokenizer = stand_in().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        initializer_range=0.4,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = LlamaForCausalLM(config)
    with torch.no_grad():
        # Writes ASCII alone where it may choose, and no end: answers are text, and as long as is asked.
        others = set(range(len(tokenizer))) - set(tokenizer.encode(printable, add_special_tokens=False))
        made.lm_head.weight[sorted(others)] = 0
    folder = tempfile.mkdtemp(prefix="chatplan-tiny-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(Path(folder))


def forks() -> bool:
    """Whether our own children may be forks: where we are one ourselves, which a test started."""
    return _FORKED in os.environ


def Popen(words: list[str], **given: Any) -> Any:
    """Start Python with these arguments, as ``subprocess.Popen`` does; in a fork where we are in one ourselves."""
    if forks():
        import forked

        return forked.Popen(words, **given)
    return subprocess.Popen([sys.executable, *words], **given)


def run(words: list[str], **given: Any) -> subprocess.CompletedProcess[Any]:
    """Run Python with these arguments, as ``subprocess.run`` does."""
    if forks():
        import forked

        return forked.run(words, **given)
    return subprocess.run([sys.executable, *words], **given)
