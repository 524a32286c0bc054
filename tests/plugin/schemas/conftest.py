"""What the tests of schemas share: to ask whether the tokens of a JSON text are let through, and what is valid."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from jsonschema.validators import validator_for

from chatplan.guided.backend import Grammar
from chatplan.guided.constraint import Constraint
from chatplan.hooks.guidance import GuidanceBackend
from chatplan.standin import stand_in

Accepts = Callable[[Any], bool]


@pytest.fixture(scope="session")
def enforced() -> Callable[[Any], Accepts]:
    """For a schema, whether an answer may be this instance, with its properties in the order they have here."""
    backend = GuidanceBackend(stand_in())

    def compiled(schema: Any) -> Accepts:
        grammar = backend.compile(Constraint.of("json", schema))
        return lambda instance: _accepts(backend, grammar, json.dumps(instance, ensure_ascii=False))

    return compiled


@pytest.fixture(scope="session")
def valid() -> Callable[[Any], Accepts]:
    """For a schema, whether an instance is valid by the draft that it names, or else by 2020-12."""

    def checked(schema: Any) -> Accepts:
        cls = Draft202012Validator if isinstance(schema, bool) else validator_for(schema, default=Draft202012Validator)
        cls.check_schema(schema)
        return cls(schema).is_valid

    return checked


def _accepts(backend: GuidanceBackend, grammar: Grammar, text: str) -> bool:
    model, matcher = backend.model, grammar.start()
    mask = torch.zeros((model.logits_width + 31) // 32, dtype=torch.int32)
    for token in model.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True):
        matcher.fill(mask)
        if not _allowed(mask, token):
            return False
        matcher.accept(token)
    matcher.fill(mask)
    return any(_allowed(mask, token) for token in model.eos_token_ids)


def _allowed(mask: torch.Tensor, token: int) -> bool:
    return bool(int(mask[token // 32]) >> (token % 32) & 1)
