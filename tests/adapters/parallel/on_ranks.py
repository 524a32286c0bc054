"""A program for torchrun: asks the divided model for what it is given, disturbs it in between, and writes what it said.

on_ranks.py CHECKPOINT REQUESTS ANSWERS

It is what ``torchrun --standalone --nproc-per-node 2`` does, but that the ranks are forks of this process, which spares
each of them its imports.
"""

from __future__ import annotations

import atexit
import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from transformers import LogitsProcessor

from chatplan import ChatCompletionRequest, ChatplanError, Stage, hookimpl, pipeline
from chatplan.adapters.parallel import tensor_parallel

SECONDS = 6.0
HELLO = [{"role": "user", "content": "Hello there"}]


class Break(LogitsProcessor):
    """Raises at the third token."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        self.calls += 1
        if self.calls == 3:
            raise ValueError("it broke")
        return scores


class Breaks:
    """A plugin that breaks the requests of one user."""

    @hookimpl
    def logits_processors(self, request: ChatCompletionRequest) -> Iterable[Any]:
        return [(Stage.BIAS, Break())] if request.user == "breaks" else ()


def main(checkpoint: str, requests: str, answers: str) -> None:
    model = tensor_parallel(checkpoint, 2, seconds=SECONDS)
    chat = pipeline("chat", model=model, tokenizer=checkpoint, plugins=[Breaks()])
    given = json.loads(Path(requests).read_text("utf-8"))
    found: dict[str, Any] = {"engine": chat.chat.engine.name}
    found["one"] = {name: chat(request).to_dict() for name, request in given.items()}
    found["batch"] = [answer.to_dict() for answer in chat(list(given.values()))]
    found["streamed"] = [chunk.to_dict() for chunk in chat(given["greedy"], stream=True)]
    found["after"] = {}
    for name, disturb in DISTURBANCES.items():
        found[name] = disturb(chat)
        found["after"][name] = chat(given["greedy"]).to_dict()
    Path(answers).write_text(json.dumps(found), "utf-8")


def cancelled(chat: Any) -> int:
    with chat(HELLO, stream=True, temperature=0, ignore_eos=True, max_tokens=900) as stream:
        return len([chunk for chunk, _ in zip(stream, range(4), strict=False)])


def broken_processor(chat: Any) -> str:
    try:
        chat(HELLO, temperature=0, user="breaks")
    except ChatplanError as error:
        return str(error)
    return ""


def broken_step(chat: Any) -> str:
    """What all ranks fail at."""
    try:
        with chat.chat.engine._in_step():
            chat.model(input_ids=torch.tensor([[1, 2]]), attention_mask=torch.ones(1, 1, 7, 9))
    except RuntimeError as error:
        return type(error).__name__
    return ""


def idle(chat: Any) -> float:
    """Longer than a rank may take in a step."""
    time.sleep(SECONDS + 1)
    return SECONDS


DISTURBANCES = {each.__name__: each for each in (cancelled, broken_processor, broken_step, idle)}


def rank(*arguments: str) -> None:
    """What an interpreter does; forks that torchrun makes run nothing at their end, and must return."""
    try:
        main(*arguments)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"a rank ended with {end.code}") from end
    finally:
        atexit._run_exitfuncs()


if __name__ == "__main__":
    torchrun = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", max_restarts=0,
        start_method="fork", monitor_interval=0.1,
    )  # fmt: skip
    elastic_launch(torchrun, rank)(*sys.argv[1:])
