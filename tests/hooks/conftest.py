"""What the tests of grammar backends share: to follow an answer token by token, and to write one at random."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from chatplan import ModelInfo
from chatplan.guided import Grammar, Matcher

Allowed = Callable[[ModelInfo, Matcher], set[int]]
Accepts = Callable[[ModelInfo, Grammar, str], bool]
Writes = Callable[[ModelInfo, Grammar, int], str]


@pytest.fixture(scope="session")
def allowed() -> Allowed:
    """The ids that a matcher's mask allows."""
    return _allowed


@pytest.fixture(scope="session")
def accepts() -> Accepts:
    """Whether the grammar lets a text through, each of its tokens, and lets it end there."""
    return _accepts


@pytest.fixture(scope="session")
def writes() -> Writes:
    """Writes a text that a grammar allows, by chance, soon at an end."""
    return _writes


def _allowed(model: ModelInfo, matcher: Matcher) -> set[int]:
    mask = torch.full(((model.logits_width + 31) // 32,), -7, dtype=torch.int32)
    matcher.fill(mask)
    bits = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")
    found = set(map(int, np.flatnonzero(bits)))
    ends = set(model.eos_token_ids)
    assert ends <= found or not ends & found, "some may end the answer and some not"
    special = set(model.tokenizer.all_special_ids) - ends
    assert not found & special, "a special token in the middle"
    assert max(found, default=0) < model.logits_width, "a bit without a token"
    return found


def _accepts(model: ModelInfo, grammar: Grammar, text: str) -> bool:
    matcher = grammar.start()
    for token_id in model.tokenizer(text, add_special_tokens=False)["input_ids"]:
        if token_id not in _allowed(model, matcher):
            with pytest.raises(ValueError, match="token"):
                matcher.accept(token_id)
            return False
        matcher.accept(token_id)
    found = set(model.eos_token_ids) <= _allowed(model, matcher)
    for end in model.eos_token_ids:
        with pytest.raises(ValueError, match="token"):
            matcher.accept(end)
    return found


def _writes(model: ModelInfo, grammar: Grammar, seed: int) -> str:
    draw, matcher, ids = random.Random(seed), grammar.start(), list[int]()
    closing = {model.tokenizer.convert_tokens_to_ids(character) for character in '"]},'}
    while len(ids) < 500:
        found = _allowed(model, matcher)
        ends, body = found & set(model.eos_token_ids), sorted(found - set(model.eos_token_ids))
        if ends and (not body or draw.random() < 0.4):
            break
        near = [token_id for token_id in body if token_id in closing]
        ids.append(draw.choice(near if near and len(ids) > 20 else body))
        matcher.accept(ids[-1])
        matcher = matcher.copy() if draw.random() < 0.1 else matcher
    return b"".join(bytes(model.tokens.bytes(token_id)) for token_id in ids).decode()
