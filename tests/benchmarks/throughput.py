"""Tokens a second of a plain greedy request: ``pipeline("chat")`` over bare ``model.generate`` with the same settings.

The two take turns in one process, so that a machine that speeds up or slows down does so for both; the ratio is the
median of the pairs. The bound is 0.97 for whole answers; a stream also pays for handing over each
chunk. ``CHATPLAN_MODEL`` names the checkpoint.

    python tests/benchmarks/throughput.py [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from quick import arguments, model

from chatplan import pipeline

MESSAGES = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and the sea."}]


def bare(pipe: Any, tokens: int) -> int:
    """The same request by hand; returns the number of new tokens."""
    text = pipe.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    inputs = pipe.tokenizer(text, return_tensors="pt", add_special_tokens=False).to(pipe.model.device)
    output = pipe.model.generate(**inputs, do_sample=False, max_new_tokens=tokens)
    pipe.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return int(output.shape[1] - inputs["input_ids"].shape[1])


def ours(pipe: Any, tokens: int) -> int:
    """The request through the pipeline."""
    return int(pipe(MESSAGES, temperature=0, max_tokens=tokens).usage.completion_tokens)


def streamed(pipe: Any, tokens: int) -> int:
    """The request through the pipeline, chunk by chunk."""
    stream = pipe(MESSAGES, temperature=0, max_tokens=tokens, stream=True, stream_options={"include_usage": True})
    return int(list(stream)[-1].usage.completion_tokens)


def rate(work: Callable[[Any, int], int], pipe: Any, most: int) -> float:
    """Tokens a second of one call."""
    start = time.perf_counter()
    tokens = work(pipe, most)
    return tokens / (time.perf_counter() - start)


def main() -> None:
    quick = arguments(__doc__).parse_args().quick
    tokens, pairs = (4, 2) if quick else (64, 9)
    pipe = pipeline("chat", model=model(quick))
    works = (bare, ours, streamed)
    for work in works:
        work(pipe, tokens)
    rounds = [[rate(work, pipe, tokens) for work in works] for _ in range(pairs)]
    print(f"{'':18}{'tokens/s':>10}{'ratio to the peer':>20}")
    print(f"{'generate (peer)':18}{statistics.median(r[0] for r in rounds):10.1f}{1:20.3f}")
    for at, name in ((1, "pipeline, whole"), (2, "pipeline, streamed")):
        ratio = statistics.median(r[at] / r[0] for r in rounds)
        verdict = "" if at == 2 else f"   {'within' if ratio >= 0.97 else 'BELOW'} 0.97"
        print(f"{name:18}{statistics.median(r[at] for r in rounds):10.1f}{ratio:20.3f}{verdict}")


if __name__ == "__main__":
    main()
