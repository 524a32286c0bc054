"""What the handler costs beside ``model.generate``: the same prompt, greedy, the same number of tokens, in turns.

    python tests/benchmarks/endpoint_overhead.py [--tokens 64] [--pairs 15] [--limit 1.05] [--quick]

Each pair is timed back to back, in alternating order, so that what else the machine does falls on both. The median of
the pairs' ratios is printed, by the clock and in processor time, which a busy machine disturbs less; ``--limit`` is for
the first of the two. OMP_NUM_THREADS=1 keeps waiting threads out of the second.
"""

from __future__ import annotations

import os
import runpy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from quick import arguments, checkpoint, parsed

from chatplan.adapters.endpoint import EndpointHandler

MESSAGES = [{"role": "user", "content": "Tell me a long story about a fox and a raven."}]


def main() -> None:
    """Print the median ratio for a conversation and for a prompt."""
    parser = arguments(__doc__)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--limit", type=float, help="fail if a median is above this")
    options = parsed(parser, tokens=4, pairs=2)
    handler = EndpointHandler(checkpoint() if options.quick else model_path(), dtype="float32")
    bodies = {
        "conversation": {"inputs": {"messages": MESSAGES, "temperature": 0, "max_tokens": options.tokens}},
        "prompt": {"inputs": "Once upon a time, a fox", "parameters": {"max_new_tokens": options.tokens}},
    }
    medians = [measure(name, handler, body, options.tokens, options.pairs) for name, body in bodies.items()]
    if options.limit is not None and max(medians) > options.limit:
        raise SystemExit(f"above the limit of {options.limit}")


def model_path() -> str:
    """The checkpoint to measure with."""
    if "CHATPLAN_MODEL" in os.environ:
        return os.environ["CHATPLAN_MODEL"]
    maker = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "smollm2.py"))
    return str(maker["cache_dir"]() / maker["NAME"])


def measure(name: str, handler: EndpointHandler, body: Any, tokens: int, pairs: int) -> float:
    """The median of ``pairs`` ratios, handler to bare call."""
    bare = bare_call(handler, body, tokens)
    assert text_of(handler(body)) == bare(), "the two do not generate the same"
    ratios, busy, plain_seconds = [], [], []
    for at in range(pairs):
        if at % 2:
            plain, handled = timed(bare), timed(lambda: handler(body))
        else:
            handled, plain = timed(lambda: handler(body)), timed(bare)
        ratios.append(handled[0] / plain[0])
        busy.append(handled[1] / plain[1])
        plain_seconds.append(plain[0])
    median, bare_ms = statistics.median(ratios), statistics.median(plain_seconds) * 1000
    spread = f"{min(ratios):.3f} to {max(ratios):.3f}; in processor time {statistics.median(busy):.3f}"
    print(f"{name}: {median:.3f} of model.generate ({spread}; bare {bare_ms:.0f} ms)", flush=True)
    return median


def bare_call(handler: EndpointHandler, body: Any, tokens: int) -> Callable[[], str]:
    """``model.generate`` as one would write it: rendered and tokenised, generated, decoded."""
    tokenizer, model = handler.chat.model.tokenizer, handler.chat.model.require_module()

    def call() -> str:
        given = body["inputs"]
        text = (
            given
            if isinstance(given, str)
            else tokenizer.apply_chat_template(given["messages"], tokenize=False, add_generation_prompt=True)
        )
        inputs = tokenizer(text, return_tensors="pt").to(model.device)
        with torch.no_grad():
            output = model.generate(**inputs, max_new_tokens=tokens, do_sample=False)  # type: ignore[operator]
        return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    return call


def text_of(answer: Any) -> str:
    """The text of either kind of answer."""
    if isinstance(answer, list):
        return str(answer[0]["generated_text"])
    return str(answer["choices"][0]["message"]["content"])


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """How long a call takes, and how long the processor was busy with it, in seconds."""
    start, busy = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - start, time.process_time() - busy


if __name__ == "__main__":
    main()
