"""Beam search, by ``model.generate``'s own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from chatplan.engine.batches import CausalLM, generate_arguments, input_device, model_inputs
from chatplan.engine.criteria import plugin_criteria
from chatplan.engine.sampler import Sampler, failing
from chatplan.engine.scoring import score_tokens
from chatplan.errors import RequestError
from chatplan.guided.mask import GrammarMask, matches
from chatplan.plan import Stage, StopTokens
from chatplan.row import Row

if TYPE_CHECKING:
    from chatplan.model import ModelInfo

__all__ = ["run_beams"]

# Beams are compared, not drawn; their log-probabilities are read from the finished ones.
_SKIP = frozenset({Stage.DRAW, Stage.LOGPROBS, Stage.PROCESSED_LOGPROBS})


def run_beams(model: CausalLM, info: ModelInfo, rows: Sequence[Row], config: GenerationConfig) -> None:
    """Search for the rows of one request, best first, then push each finished beam through its row."""
    plan = rows[0].plan
    stops = [i for item in plan.stopping_criteria if isinstance(item, StopTokens) for i in item.token_ids]
    ends = [*(plan.generation_config.get("eos_token_id") or ()), *stops]
    config.num_return_sequences = len(rows)
    config.eos_token_id = ends or config.eos_token_id
    device = input_device(model)
    inputs = model_inputs(rows[:1], info.pad_token_id, device)
    beams = model.generate(
        **inputs,
        generation_config=config,
        logits_processor=LogitsProcessorList([BeamScores(rows, device)]),
        stopping_criteria=StoppingCriteriaList([Cancelled(rows)]),
        **generate_arguments(model),
    )
    answers = beams[:, inputs["input_ids"].shape[1] :].tolist()
    found = [up_to_end(beam, ends) for beam in answers]
    guided = any(isinstance(item, GrammarMask) for _, item in plan.processors)
    for at, (row, beam) in enumerate(zip(rows, answers, strict=True)):
        with failing([row]):
            # All beams begin alike, so where a grammar leaves too few ways, one is found again and again.
            if not matches(row, beam) or (guided and found[at] in found[:at]):
                raise RequestError(f"fewer than {len(rows)} answers match the constraint", param="n")
            deliver(model, row, beam, device)


def up_to_end(beam: list[int], ends: Sequence[int]) -> list[int]:
    """What is an answer of a beam; behind its end stands padding, or an end again."""
    return beam[: next((at for at, token in enumerate(beam) if token in ends), len(beam))]


def deliver(model: CausalLM, row: Row, token_ids: Sequence[int], device: torch.device) -> None:
    """Push a finished beam token by token, so that stops, text and log-probabilities come as from any other row."""
    top = row.plan.generation_config.get("logprobs")
    scores = (
        [] if top is None else list(score_tokens(model, [*row.prompt_ids, *token_ids], top, row.plan.prompt.inputs))
    )
    reads = scores[len(row.prompt_ids) - 1 :]
    for position, token in enumerate(token_ids):
        row.scores = reads[position] if reads else None
        row.push(token)
        plugin_criteria(row, device)
        if row.finished:
            return
    row.finish("length")


class BeamScores(LogitsProcessor):
    """The plan's processors on each beam, then log-probabilities again, since beams are ranked by their sum."""

    def __init__(self, rows: Sequence[Row], device: torch.device) -> None:
        self.rows = rows
        self.row: Row = rows[0]
        self.device = device
        self.states: dict[Any, Any] = {}

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        beams = [self._beam(ids) for ids in input_ids[:, len(self.row.prompt_ids) :].tolist()]
        scores = Sampler(beams, self.device, _SKIP)(scores).log_softmax(dim=-1)
        for beam in beams:
            if beam.error is not None:  # the rows wait for the search, which ends with them
                for row in self.rows:
                    row.fail(beam.error)
        return scores

    def _beam(self, output_ids: list[int]) -> Row:
        """A row as the processors see it. Beams change places at every step, so they share what is kept."""
        beam = Row(self.row.plan, self.row.model, self.row.index)
        beam.output_ids = output_ids
        beam.states = self.states
        return beam


class Cancelled(StoppingCriteria):
    """Ends the search when nobody waits for it."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> Any:
        over = all(row.finished for row in self.rows)
        return torch.full((input_ids.shape[0],), over, device=input_ids.device)
