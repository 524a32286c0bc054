"""The engine on ``model.generate``: any model, any placement, transformers 4.51 to 5.x.

``generate`` keeps its loop, cache and placement. Two public seams carry everything else: a logits processor works on
the scores and makes the draw (it leaves one finite score, which ``generate``'s argmax takes), and a stopping criterion
sees each new token, hands it to the rows and says which are over.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from chatplan.capabilities import UNSUPPORTED
from chatplan.engine.base import Engine, EngineStats, PromptLogprobs
from chatplan.engine.batches import (
    PER_ROW,
    CausalLM,
    batches,
    generate_arguments,
    input_device,
    longest_row,
    model_inputs,
)
from chatplan.engine.beams import run_beams
from chatplan.engine.criteria import plugin_criteria
from chatplan.engine.sampler import Sampler, failing
from chatplan.engine.scoring import prompt_logprobs
from chatplan.engine.turns import Turns
from chatplan.errors import EngineError

if TYPE_CHECKING:
    from chatplan.model import ModelInfo
    from chatplan.plan import GenerationPlan
    from chatplan.row import Row

__all__ = ["REQUEST_DECIDES", "GenerateEngine"]


class GenerateEngine(Engine):
    """Runs rows in padded batches through ``model.generate``; one call at a time."""

    name = "generate"
    unsupported: ClassVar[Mapping[str, str]] = UNSUPPORTED["generate"]

    def __init__(self, info: ModelInfo) -> None:
        self.info = info
        self.model: CausalLM = info.require_module()
        self._turns = Turns()
        self._running = 0

    def run(self, rows: Sequence[Row]) -> None:
        # A recurrent state has no mask to hide padding behind, so such models batch equal lengths only.
        pad = not getattr(self.model, "_is_stateful", False)
        rows = sorted(rows, key=priority_of)
        for batch in batches(rows, self.info.settings.batch_size, pad):
            # A batch at a time, so that what is more urgent comes in between.
            with self._turns.turn(min(map(priority_of, batch))):
                self._run_batch([row for row in batch if not row.finished])

    def prompt_logprobs(self, plan: GenerationPlan) -> PromptLogprobs:
        with self._turns.turn(plan.request.priority):
            return prompt_logprobs(self.model, self.info, plan)

    def stats(self) -> EngineStats:
        """Calls that wait, and rows of the one that runs."""
        return EngineStats(len(self._turns), self._running)

    def _run_batch(self, rows: list[Row]) -> None:
        self._running = len(rows)
        try:
            self._run_rows(rows)
        finally:
            self._running = 0

    def _run_rows(self, rows: list[Row]) -> None:
        if not rows:
            return
        if rows[0].plan.beams > 1:
            run_beams(self.model, self.info, rows, generate_config(self.model, self.info, rows))
            return
        while running := [row for row in rows if not row.finished]:
            before = sum(len(row.output_ids) for row in running)
            self._generate(running)
            if before == sum(len(row.output_ids) for row in running) and not all(row.finished for row in running):
                raise EngineError("generate ended without a token")

    def _generate(self, rows: list[Row]) -> None:
        """One call, which ends when all rows are over, or when the longest one fills the context."""
        device = input_device(self.model)
        steps = Steps(rows, device)
        self.model.generate(
            **model_inputs(rows, self.info.pad_token_id, device),
            generation_config=generate_config(self.model, self.info, rows),
            logits_processor=LogitsProcessorList([Draw(steps)]),
            stopping_criteria=StoppingCriteriaList([Deliver(steps)]),
            **generate_arguments(self.model),
        )


def priority_of(row: Row) -> int:
    """Lower is more urgent."""
    return row.plan.request.priority


class Steps:
    """The rows of one ``generate`` call, and the sampler for those still running."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self.rows: list[Row] = list(rows)
        self.device = device
        self._renew()

    def _renew(self) -> None:
        """A sampler for the rows that are still running."""
        self.running: list[Row] = [row for row in self.rows if not row.finished]
        self.sampler: Sampler = Sampler(self.rows, self.device)

    def take(self, tokens: torch.Tensor) -> None:
        """Give each row its token, int64 ``[rows]``; the sampler shrinks when rows end."""
        self.sampler.advance(tokens)
        for row, token in zip(self.rows, tokens.tolist(), strict=True):
            with failing([row]):
                row.push(token)
                plugin_criteria(row, self.device)
        if any(row.finished for row in self.running):
            self._renew()


class Draw(LogitsProcessor):
    """Scores in, scores out; rows that sample come out with a single finite score."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        return self.steps.sampler(scores)


class Deliver(StoppingCriteria):
    """Hands the new tokens to the rows and tells ``generate`` which rows are over."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        self.steps.take(input_ids[:, -1])
        return torch.tensor([row.finished for row in self.steps.rows], device=input_ids.device)


def generate_config(model: CausalLM, info: ModelInfo, rows: Sequence[Row]) -> GenerationConfig:
    """The model's own GenerationConfig, without what a request decides, with what the plans of ``rows`` say."""
    config: GenerationConfig = copy.deepcopy(model.generation_config)
    planned = {key: value for key, value in rows[0].plan.generation_config.items() if key not in PER_ROW}
    left = max(row.plan.max_new_tokens - len(row.output_ids) for row in rows)
    # A row that is over stays as padding and must not outgrow the model; the others go on in a further call.
    room = left if info.context_length is None else info.context_length - longest_row(rows)
    engine: dict[str, Any] = {
        "pad_token_id": info.pad_token_id,
        "max_new_tokens": min(left, room),
        # Rows end by their own rules. The model's ids would replace None, so an id that is never drawn stands in.
        "eos_token_id": [info.vocab_size or 2**31 - 1],
    }
    # Attribute by attribute: `update` would warn of sampling values that another plan of the model had left.
    for name, value in {**REQUEST_DECIDES, **planned, **engine}.items():
        setattr(config, name, value)
    return config


REQUEST_DECIDES: dict[str, Any] = {
    "do_sample": False,
    "temperature": 1.0,
    "top_k": 50,
    "top_p": 1.0,
    "min_p": None,
    "repetition_penalty": 1.0,
    "num_beams": 1,
    "num_return_sequences": 1,
    "min_length": 0,
    "return_dict_in_generate": False,
    "output_scores": False,
}
"""What a request, or the engine, decides instead of the checkpoint: back to where transformers does nothing."""
