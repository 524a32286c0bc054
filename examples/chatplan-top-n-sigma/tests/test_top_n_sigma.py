"""The field ``top_n_sigma``: its definition, rows in a batch, its place in a request."""

from __future__ import annotations

import math
import statistics
from typing import Any

import chatplan_top_n_sigma as plugin
import pytest
import torch

from chatplan import Plugins, RequestError, explain
from chatplan.standin import stand_in

MESSAGES = [{"role": "user", "content": "Hi"}]
PLUGINS = Plugins([plugin], installed=False)


def kept_by_definition(logits: list[float], n: float) -> list[bool]:
    """The paper's formula in plain Python, over the tokens that are allowed."""
    allowed = [logit for logit in logits if not math.isinf(logit)]
    lowest = max(allowed) - n * statistics.pstdev(allowed)
    return [logit >= lowest for logit in logits]


def work(scores: torch.Tensor, *ns: float) -> torch.Tensor:
    rows: list[Any] = [None] * len(ns)
    result = plugin.TopNSigma.for_rows([plugin.TopNSigma(n) for n in ns], rows, scores.device)(scores.clone())
    assert isinstance(result, torch.Tensor)
    return result


def random_scores(rows: int) -> torch.Tensor:
    """Logits of which a part is not allowed, as after a grammar."""
    made = torch.Generator().manual_seed(3)
    scores = torch.randn(rows, 500, generator=made) * 4
    return scores.masked_fill(torch.rand(rows, 500, generator=made) < 0.3, -torch.inf)


@pytest.mark.parametrize("n", [0.25, 1.0, 1.7, 3.0])
def test_it_keeps_what_the_definition_keeps(n: float) -> None:
    scores = random_scores(4)
    for before, after in zip(scores, work(scores, n, n, n, n), strict=True):
        kept = kept_by_definition(before.tolist(), n)
        assert after.isfinite().tolist() == kept
        assert torch.equal(after[after.isfinite()], before[torch.tensor(kept)])
        assert any(kept)
        assert not all(kept)


def test_a_row_in_a_batch_is_what_it_is_alone() -> None:
    scores, ns = random_scores(3), (0.3, 1.0, 2.5)
    together = work(scores, *ns)
    for position, n in enumerate(ns):
        assert torch.equal(together[position : position + 1], work(scores[position : position + 1], n))


def test_the_same_tokens_are_kept_at_any_temperature() -> None:
    scores = random_scores(2)
    assert torch.equal(work(scores, 1.0, 1.0).isfinite(), work(scores / 2, 1.0, 1.0).isfinite())


def test_a_single_allowed_token_stays() -> None:
    scores = torch.full((1, 9), -torch.inf)
    scores[0, 4] = 2.0
    assert torch.equal(work(scores, 1.0), scores)


def explained(**fields: Any) -> str:
    request = PLUGINS.request_type.model_validate({"messages": MESSAGES, **fields})
    effects = explain(request, stand_in(), PLUGINS).fields
    return " ".join(f"{effect.field}: {' '.join(effect.became)}" for effect in effects)


def test_a_request_with_the_field_gets_the_processor_before_temperature() -> None:
    assert "top_n_sigma: processor TopNSigma(n=1.5) at temperature" in explained(top_n_sigma=1.5, temperature=0.8)


def test_a_greedy_request_needs_no_processor() -> None:
    assert "top_n_sigma: no change" in explained(top_n_sigma=1.5, temperature=0)


def test_values_outside_its_range_and_beam_search_are_refused_by_name() -> None:
    from chatplan.request import parse_request

    with pytest.raises(RequestError, match="top_n_sigma"):
        parse_request({"messages": MESSAGES, "top_n_sigma": -1}, PLUGINS.request_type)
    with pytest.raises(RequestError, match="beam search"):
        explained(top_n_sigma=1, use_beam_search=True, n=2, temperature=0)
