"""How long does a request take to become a plan, template rendering aside?

Printed beside what ``model.generate`` itself spends on its configuration (copying and updating a GenerationConfig), as
microseconds, and as their ratio. The bound is 300 µs at the median.

    python tests/benchmarks/compile_plan.py [--quick]
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

from quick import arguments
from transformers import GenerationConfig

from chatplan import ModelInfo, Plugins, Prompt, compile_plan, hookimpl
from chatplan.request import parse_request
from chatplan.standin import stand_in

PLAIN = {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0.2, "max_tokens": 16}
FULL = PLAIN | {
    "model": "stand-in",
    "n": 4,
    "best_of": 8,
    "seed": 7,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "frequency_penalty": 0.2,
    "presence_penalty": 0.1,
    "logit_bias": {str(token): 1.0 for token in range(50)},
    "allowed_token_ids": list(range(200)),
    "stop": ["\n\n", "END", "User:"],
    "stop_token_ids": [5, 6],
    "min_tokens": 2,
    "logprobs": True,
    "top_logprobs": 5,
    "prompt_logprobs": 1,
    "return_token_ids": True,
    "user": "somebody",
}


class Rendered:
    """Gives every request the same prompt, so that Jinja and the tokenizer are not measured."""

    name = "rendered"

    @hookimpl(tryfirst=True)
    def render_prompt(self, model: ModelInfo) -> Prompt:
        return Prompt(tuple(range(100)), "text")


def median_us(work: Callable[[], Any], runs: int) -> float:
    """The median time of ``work`` in microseconds, after a warm-up."""
    for _ in range(runs // 10):
        work()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


def generate_config() -> GenerationConfig:
    """What ``generate`` does with its configuration before it begins."""
    config = copy.deepcopy(GenerationConfig())
    config.update(max_new_tokens=16, do_sample=True, temperature=0.2)
    return config


def main() -> None:
    runs = 20 if arguments(__doc__).parse_args().quick else 2000
    model, plugins = stand_in(), Plugins([Rendered()])
    peer = median_us(generate_config, runs // 4)
    print(f"{'':24}{'µs':>8}{'ratio to the peer':>20}")
    print(f"{'GenerationConfig (peer)':24}{peer:8.0f}{1:20.2f}")
    for name, data in (("plain request", PLAIN), ("request with 21 fields", FULL)):
        request = parse_request(data)
        took = median_us(lambda request=request: compile_plan(request, model, plugins), runs)  # type: ignore[misc]
        print(f"{name:24}{took:8.0f}{took / peer:20.2f}   {'within' if took <= 300 else 'OVER'} 300 µs")


if __name__ == "__main__":
    main()
