"""What the work on the logits costs, as a share of a decode step: batch 8, vocabulary 49,152, every field at once.

The decode step is the model's own forward pass with a cache of 200 tokens, measured in turns with the sampler. The peer
is ``generate``'s own processors and warpers for the fields that it knows. The bound is 10 % of the step.
``CHATPLAN_MODEL`` names the checkpoint.

    python tests/benchmarks/sampler.py [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from quick import arguments, model
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatplan import Row, pipeline
from chatplan.draws import Draws
from chatplan.engine.sampler import Sampler

ROWS = 8
FIELDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0},
    "temperature": {"temperature": 0.8},
    "top_k": {"temperature": 0.8, "top_k": 50},
    "top_p": {"temperature": 0.8, "top_p": 0.9},
    "min_p": {"temperature": 0.8, "min_p": 0.02},
    "penalties": {"temperature": 0, "repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    "logit_bias": {"temperature": 0, "logit_bias": {str(token): 1 for token in range(100)}},
    "logprobs": {"temperature": 0, "logprobs": True, "top_logprobs": 5},
}
FIELDS["all together"] = {k: v for fields in FIELDS.values() for k, v in fields.items()} | {"temperature": 0.8}


def rows_for(pipe: Any, fields: dict[str, Any]) -> list[Row]:
    """Eight rows in the middle of their answers."""
    messages = [{"role": "user", "content": "Tell me about the sea. " * 25}]
    rows = []
    for seed in range(ROWS):
        plan = pipe.plan(messages, seed=seed, max_tokens=400, **fields)
        row = Row(plan, pipe.chat.model, draws=Draws(seed))
        row.output_ids = tokens(pipe, (100,), seed).tolist()
        rows.append(row)
    return rows


def tokens(pipe: Any, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Some that are common, where the vocabulary is large."""
    most = pipe.model.config.vocab_size
    return torch.randint(min(1000, most // 2), min(9000, most), shape, generator=torch.Generator().manual_seed(seed))


def sampling(rows: list[Row], logits: torch.Tensor) -> Callable[[], None]:
    """One step of ours: scores, draw, and what keeps count."""
    sampler = Sampler(rows, logits.device)

    def step() -> None:
        scores = sampler(logits.clone())
        sampler.advance(scores.argmax(dim=-1))

    return step


def peer(rows: list[Row], logits: torch.Tensor) -> Callable[[], None]:
    """generate's own: one set of values for all rows, no bias, no counted penalties, no logprobs."""
    ids = torch.tensor([[*row.prompt_ids, *row.output_ids] for row in rows])
    work = LogitsProcessorList(
        [
            RepetitionPenaltyLogitsProcessor(1.1),
            TemperatureLogitsWarper(0.8),
            TopKLogitsWarper(50),
            TopPLogitsWarper(0.9),
            MinPLogitsWarper(0.02),
        ]
    )
    return lambda: (torch.multinomial(work(ids, logits.clone()).softmax(dim=-1), 1), None)[1]  # type: ignore[arg-type]


def decoding(model: Any) -> Callable[[], Any]:
    """One decode step of the model at batch 8, with 200 tokens in the cache."""
    past = model(torch.full((ROWS, 200), 5), use_cache=True).past_key_values
    token = torch.full((ROWS, 1), 7)

    def step() -> None:
        model(token, past_key_values=past, use_cache=True)
        past.crop(-1)

    return step


def seconds(work: Callable[[], Any]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def main() -> None:
    quick = arguments(__doc__).parse_args().quick
    pipe = pipeline("chat", model=model(quick))
    step = decoding(pipe.model)
    logits = pipe.model(tokens(pipe, (ROWS, 8), 0)).logits[:, -1].float()
    works = {name: sampling(rows_for(pipe, fields), logits) for name, fields in FIELDS.items()}
    works["generate's own (peer)"] = peer(rows_for(pipe, {}), logits)
    times: dict[str, list[float]] = {name: [] for name in ("decode step", *works)}
    for _ in range(2 if quick else 30):
        times["decode step"].append(seconds(step))
        for name, work in works.items():
            times[name].append(seconds(work))
    whole = statistics.median(times["decode step"])
    print(f"{'':24}{'ms':>8}{'share of a step':>18}")
    for name, taken in times.items():
        median = statistics.median(taken)
        bound = "" if name != "all together" else f"   {'within' if median / whole <= 0.1 else 'OVER'} 10 %"
        print(f"{name:24}{median * 1e3:8.2f}{median / whole:18.1%}{bound}")


if __name__ == "__main__":
    main()
