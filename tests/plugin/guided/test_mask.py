"""Bitmasks, and the way of each row through its grammar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from chatplan.engine.sampler import Sampler
from chatplan.guided.backend import Grammar, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.mask import BeamTrails, DeadBeam, GrammarMask, Trail, apply_mask, matches
from chatplan.plan import GenerationPlan, Prompt, Stage, StopTokens
from chatplan.request import parse_request
from chatplan.row import Row
from chatplan.standin import stand_in

MODEL = stand_in()
EOS, WIDTH = MODEL.eos_token_ids[0], MODEL.logits_width
WORDS = (WIDTH + 31) // 32


class Texts(Grammar):
    """The answer is one of these lists of tokens."""

    def __init__(self, *texts: Sequence[int], broken_at: int | None = None) -> None:
        self.texts = [tuple(text) for text in texts]
        self.broken_at = broken_at
        self.starts = 0

    def start(self) -> Matcher:
        self.starts += 1
        return _Match(self, ())


class _Match(Matcher):
    def __init__(self, grammar: Texts, read: tuple[int, ...]) -> None:
        self.grammar, self.read = grammar, read

    def fill(self, mask: torch.Tensor) -> None:
        if len(self.read) == self.grammar.broken_at:
            raise ValueError("lost")
        put(mask, self._next())

    def accept(self, token_id: int) -> None:
        if token_id not in self._next() - {EOS}:
            raise ValueError(f"no {token_id} here")
        self.read = (*self.read, token_id)

    def copy(self) -> Matcher:
        return _Match(self.grammar, self.read)

    def _next(self) -> set[int]:
        length = len(self.read)
        fitting = [text for text in self.grammar.texts if text[:length] == self.read]
        return {text[length] if len(text) > length else EOS for text in fitting}


def put(mask: torch.Tensor, tokens: set[int]) -> None:
    bits = np.zeros(32 * len(mask), dtype=np.uint8)
    bits[list(tokens)] = 1
    mask.copy_(torch.from_numpy(np.packbits(bits, bitorder="little").view(np.int32)))


def tokens_of(mask: torch.Tensor) -> set[int]:
    return set(np.flatnonzero(np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")).tolist())


def filled(matcher: Matcher, words: int = WORDS) -> set[int]:
    """The tokens that a matcher allows; what was in the mask before must not matter."""
    mask = torch.full((words,), 0x55555555, dtype=torch.int32)
    matcher.fill(mask)
    return tokens_of(mask)


def row(grammar: Grammar | None, beams: int = 1, stops: tuple[int, ...] = ()) -> Row:
    masks = [(Stage.GRAMMAR, GrammarMask(Constraint("regex", "x"), "fake", grammar))] if grammar else []
    plan = GenerationPlan(
        request=parse_request({"messages": [{"role": "user", "content": "Hi"}]}),
        request_id="x",
        model="m",
        prompt=Prompt((7, 8)),
        template_args={},
        generation_config={"max_new_tokens": 9, "eos_token_id": [EOS], "num_beams": beams},
        processors=tuple(masks),
        stopping_criteria=(StopTokens(stops),),
        output_stages=(),
    )
    return Row(plan, MODEL)


def finite(scores: torch.Tensor) -> list[set[int]]:
    return [set(line.isfinite().nonzero()[:, 0].tolist()) for line in scores]


# --- masks on scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 31, 32, 33, 63, 64, 100, 259, 1000])
def test_banned_tokens_have_no_score_and_the_others_keep_theirs(width: int) -> None:
    random = torch.Generator().manual_seed(width)
    for rows in (1, 3):
        scores = torch.randn(rows, width, generator=random)
        words = (width + 31) // 32
        masks = torch.randint(-(2**31), 2**31 - 1, (rows, words), generator=random).to(torch.int32)
        expected = scores.clone()
        for at in range(rows):
            for token in range(width):
                if not int(masks[at, token // 32]) >> (token % 32) & 1:
                    expected[at, token] = -torch.inf
        assert torch.equal(apply_mask(scores, masks), expected)


def test_tokens_beyond_the_mask_are_banned() -> None:
    masked = apply_mask(torch.zeros(1, 70), torch.full((1, 2), -1, dtype=torch.int32))
    assert finite(masked) == [set(range(64))]


def test_scores_that_are_banned_already_stay_so() -> None:
    scores = torch.tensor([[-torch.inf, 1.0, 2.0]])
    assert finite(apply_mask(scores, torch.tensor([[3]], dtype=torch.int32))) == [{1}]


# --- one row ----------------------------------------------------------------------------------------------------------


def test_a_trail_reads_each_token_once() -> None:
    trail = Trail(Texts((1, 2, 3)).start())
    assert filled(trail.at([])) == {1}
    assert filled(trail.at([])) == {1}
    assert filled(trail.at([1, 2])) == {3}
    assert filled(trail.at([1, 2, 3])) == {EOS}


def test_rows_of_different_grammars_share_a_call() -> None:
    rows = [row(Texts((1, 2))), row(None), row(Texts((3,), (4, 5)))]
    sampler = Sampler(rows, torch.device("cpu"))
    assert finite(sampler(torch.zeros(3, WIDTH))) == [{1}, set(range(WIDTH)), {3, 4}]
    for each, token in zip(rows, (1, 9, 3), strict=True):
        each.output_ids.append(token)
    assert finite(sampler(torch.zeros(3, WIDTH))) == [{2}, set(range(WIDTH)), {EOS}]


def test_an_error_in_one_grammar_fails_its_row_alone() -> None:
    rows = [row(Texts((1, 2))), row(Texts((1, 2), broken_at=0)), row(Texts((3,)))]
    sampler = Sampler(rows, torch.device("cpu"))
    assert finite(sampler(torch.zeros(3, WIDTH))) == [{1}, set(range(WIDTH)), {3}]
    assert [str(each.error) for each in rows] == ["None", "lost", "None"]


def test_a_token_that_does_not_match_fails_its_row_alone() -> None:
    rows = [row(Texts((1, 2))), row(Texts((1, 2)))]
    rows[0].output_ids.append(5)
    rows[1].output_ids.append(1)
    assert finite(Sampler(rows, torch.device("cpu"))(torch.zeros(2, WIDTH)))[1] == {2}
    assert [each.error is None for each in rows] == [False, True]


def test_the_way_of_a_row_outlives_its_neighbours() -> None:
    grammar, other = Texts((1, 2, 3)), Texts((4,))
    rows = [row(other), row(grammar)]
    Sampler(rows, torch.device("cpu"))(torch.zeros(2, WIDTH))
    rows[1].output_ids.append(1)
    rows[0].push(EOS)
    assert finite(Sampler(rows, torch.device("cpu"))(torch.zeros(2, WIDTH)))[1] == {2}
    rows[1].output_ids.append(2)
    assert finite(Sampler(rows[1:], torch.device("cpu"))(torch.zeros(1, WIDTH))) == [{3}]
    assert (grammar.starts, other.starts) == (1, 1)


def test_rows_of_one_plan_go_their_own_ways() -> None:
    first = row(Texts((1, 2), (3, 4)))
    second = Row(first.plan, MODEL, 1)
    first.output_ids.append(1)
    second.output_ids.append(3)
    assert finite(Sampler([first, second], torch.device("cpu"))(torch.zeros(2, WIDTH))) == [{2}, {4}]


# --- beams ------------------------------------------------------------------------------------------------------------


def test_beams_that_split_and_change_places() -> None:
    trails = BeamTrails(Texts((1, 2, 3), (1, 4, 5), (6, 7)).start(), (EOS,))
    assert [filled(trails.at([])) for _ in range(3)] == [{1, 6}] * 3
    assert [filled(trails.at([token])) for token in (1, 6, 1)] == [{2, 4}, {7}, {2, 4}]
    assert [filled(trails.at(list(ids))) for ids in ((6, 7), (1, 4), (1, 2))] == [{EOS}, {5}, {3}]
    assert [filled(trails.at(list(ids))) for ids in ((1, 2, 3), (1, 4, 5))] == [{EOS}, {EOS}]


def test_a_beam_that_cannot_match_may_only_end() -> None:
    trails = BeamTrails(Texts((1, 2)).start(), (EOS,))
    assert [filled(trails.at([token])) for token in (1, 9)] == [{2}, {EOS}]
    assert [filled(trails.at(list(ids))) for ids in ((9, 1), (9, EOS), (1, 2))] == [{EOS}, {EOS}, {EOS}]


def test_dead_beams_know_their_ends() -> None:
    dead: Matcher = DeadBeam((3, 40, 10_000))
    assert filled(dead, 2) == {3, 40}
    dead.accept(7)
    assert dead.copy() is dead


def test_the_rows_of_a_search_share_their_ways() -> None:
    grammar = Texts((1, 2), (1, 3), (4, 5))
    states: dict[Any, Any] = {}

    def search(*outputs: list[int]) -> list[set[int]]:
        beams = [row(grammar, beams=2) for _ in outputs]
        for beam, output in zip(beams, outputs, strict=True):
            beam.states, beam.output_ids = states, output
        return finite(Sampler(beams, torch.device("cpu"))(torch.zeros(len(beams), WIDTH)))

    assert search([], []) == [{1, 4}, {1, 4}]
    assert search([4], [1]) == [{5}, {2, 3}]
    assert search([1, 3], [4, 5]) == [{EOS}, {EOS}]
    assert grammar.starts == 1


STOP, PAD = 2, 0
FINISHED: list[tuple[list[int], bool]] = [
    ([1, 2, 3, EOS], True),
    ([1, 2, 3, EOS, PAD, PAD], True),
    ([1, 2], True),  # cut off
    ([], True),
    ([1, 9], False),
    ([9, EOS], False),
    ([1, EOS], False),  # ended where the grammar does not
    ([EOS], False),
    ([1, 2, 3, PAD], False),
]


@pytest.mark.parametrize(("beam", "kept"), FINISHED, ids=str)
def test_finished_beams_are_checked(beam: list[int], kept: bool) -> None:
    assert matches(row(Texts((1, 2, 3)), beams=2), beam) is kept
    assert matches(row(None, beams=2), beam)


def test_what_follows_a_stop_token_is_padding() -> None:
    stopping = row(Texts((1, 2, 3)), beams=2, stops=(STOP,))
    assert matches(stopping, [1, STOP, PAD, PAD])
    assert not matches(stopping, [STOP, PAD])
