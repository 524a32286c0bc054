"""What a constraint costs at each token.

Three comparisons, whose sides take turns in one process:

* a constrained answer through ``pipeline("chat")`` over ``model.generate`` with llguidance used bare, by its own
  numpy kernel: seconds a token, bound 1.1;
* the mask alone, over the same token ids without the model: ours over llguidance bare;
* a step of 8 rows with 8 different schemas over a step of 8 unconstrained rows: bound 1.05.

``CHATPLAN_MODEL`` names the checkpoint.

    python tests/benchmarks/guided_steps.py [--quick]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import llguidance
import llguidance.hf
import llguidance.numpy
import torch
from quick import arguments, model
from transformers import LogitsProcessor

from chatplan import pipeline
from chatplan.guided.mask import GrammarMask
from chatplan.row import Row

MESSAGES = [{"role": "user", "content": "Describe a lighthouse as a JSON object, in great detail."}]
WORDS = "tower lamp keeper island storm harbour rock fog".split()


def schema(word: str) -> dict[str, Any]:
    """A schema whose answers are long: an object with a list of texts."""
    texts = {"type": "array", "items": {"type": "string", "minLength": 40}, "minItems": 20}
    return {"type": "object", "properties": {word: {"type": "string", "minLength": 30}, "notes": texts}}


class Bare(LogitsProcessor):
    """llguidance as its documentation uses it, one row."""

    def __init__(self, matcher: Any, width: int, prompt: int) -> None:
        self.matcher, self.seen = matcher, prompt
        self.mask = llguidance.numpy.allocate_token_bitmask(1, width)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        for token in input_ids[0, self.seen :].tolist():
            self.matcher.consume_token(token)
        self.seen = input_ids.shape[1]
        llguidance.numpy.fill_next_token_bitmask(self.matcher, self.mask)
        llguidance.numpy.apply_token_bitmask_inplace(scores.numpy(), self.mask)
        return scores


def bare_matcher(pipe: Any, tokenizer: Any) -> Any:
    options: Any = {"whitespace_pattern": "[ ]?"}
    grammar = llguidance.LLMatcher.grammar_from_json_schema(schema(WORDS[0]), overrides=options)
    return llguidance.LLMatcher(tokenizer, grammar)


def bare(pipe: Any, tokenizer: Any, tokens: int) -> list[int]:
    """The constrained request by hand; the new tokens."""
    text = pipe.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    inputs = pipe.tokenizer(text, return_tensors="pt", add_special_tokens=False)
    prompt = inputs["input_ids"].shape[1]
    processor = Bare(bare_matcher(pipe, tokenizer), pipe.model.config.vocab_size, prompt)
    output = pipe.model.generate(**inputs, do_sample=False, max_new_tokens=tokens, logits_processor=[processor])
    ids: list[int] = output[0, prompt:].tolist()
    pipe.tokenizer.decode(ids)
    return ids


def ours(pipe: Any, tokens: int) -> int:
    answer = pipe(MESSAGES, temperature=0, max_tokens=tokens, guided_json=schema(WORDS[0]))
    return int(answer.usage.completion_tokens)


def batch(pipe: Any, constrained: bool, tokens: int) -> None:
    more = [{"guided_json": schema(word)} if constrained else {"ignore_eos": True} for word in WORDS]
    pipe([{"messages": MESSAGES, "temperature": 0, "max_tokens": tokens, **each} for each in more])


def mask_ours(pipe: Any, ids: Sequence[int], scores: torch.Tensor) -> None:
    """The mask of every position, as the sampler asks for it."""
    row = Row(pipe.plan(MESSAGES, guided_json=schema(WORDS[0])), pipe.chat.model)
    masks = [item for _, item in row.plan.processors if isinstance(item, GrammarMask)]
    function = GrammarMask.for_rows(masks, [row], scores.device)
    for token in ids:
        function(scores)
        row.output_ids.append(token)


def mask_bare(pipe: Any, tokenizer: Any, ids: Sequence[int], scores: torch.Tensor) -> None:
    processor = Bare(bare_matcher(pipe, tokenizer), scores.shape[1], 0)
    for at in range(len(ids)):
        processor(torch.tensor([ids[:at]]), scores)


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(
    name: str, first: Callable[[], Any], second: Callable[[], Any], steps: int, bound: float | None, pairs: int
) -> None:
    """Print milliseconds a step of both and the median of the ratios ``first / second``."""
    first(), second()
    times = [(seconds(first), seconds(second)) for _ in range(pairs)]
    ratio = statistics.median(a / b for a, b in times)
    ours, theirs = (1000 * statistics.median(each) / steps for each in zip(*times, strict=True))
    verdict = "" if bound is None else f"   {'within' if ratio <= bound else 'ABOVE'} {bound}"
    print(f"{name:44}{ours:10.3f}{theirs:10.3f}{ratio:9.3f}{verdict}")


def main() -> None:
    quick = arguments(__doc__).parse_args().quick
    tokens, pairs = (6, 2) if quick else (48, 5)
    pipe: Any = pipeline("chat", model=model(quick), dtype=torch.float32)
    width = pipe.model.config.vocab_size
    tokenizer = llguidance.hf.from_tokenizer(pipe.tokenizer, n_vocab=width)
    ids, scores = bare(pipe, tokenizer, tokens), torch.zeros(1, width)
    print(f"{'ms a token or step':44}{'ours':>10}{'peer':>10}{'ratio':>9}")
    one = lambda: ours(pipe, tokens), lambda: bare(pipe, tokenizer, tokens)
    compare("one answer / llguidance bare", *one, tokens, 1.1, pairs)
    alone = lambda: mask_ours(pipe, ids, scores), lambda: mask_bare(pipe, tokenizer, ids, scores)
    compare("the mask alone / llguidance bare", *alone, len(ids), None, pairs)
    eight = lambda: batch(pipe, True, tokens), lambda: batch(pipe, False, tokens)
    compare("8 rows, 8 schemas / 8 unconstrained", *eight, tokens, 1.05, pairs)


if __name__ == "__main__":
    main()
