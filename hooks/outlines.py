"""The grammar backend ``outlines``: JSON schemas, regular expressions and choices, as finite automata."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

import torch

from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.honours import Honours, Schema
from chatplan.guided.keywords import honoured
from chatplan.guided.patterns import portable
from chatplan.guided.values import choices, json_value
from chatplan.guided.vocabulary import NO_BLANKS, NUL, token_bytes
from chatplan.guided.worker import Worker
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo


def _refuse(schema: Schema) -> str:
    """An automaton has an end to its depth."""
    missing = {"object": {"properties", "additionalProperties"}, "array": {"items", "prefixItems"}}
    if schema.get("type") in missing and not schema.keys() & missing[schema["type"]]:
        return f"it cannot express an {schema['type']} of just anything"
    return ""


HONOURS = Honours(
    "outlines",
    {
        "string": ("minLength", "maxLength", "pattern", "format"),
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "object": ("properties", "required", "additionalProperties"),
    },
    recursion=False,
    refuse=_refuse,
)
# Where one alternative matches, the library drops those that could go on. So every expression ends with NUL, which no
# token of the answer has; the tokens that end the answer stand for it.
_END = "\0"
_UNUSED = 2**32 - 1
_BYTES_OF_A_TRANSITION = 3  # in a hash table, by those of its file


@hookimpl
def grammar_backend(model: ModelInfo) -> GrammarBackend | None:
    """The backend, if the library ``outlines_core`` is installed."""
    return Outlines(model) if find_spec("outlines_core") else None


class Outlines(GrammarBackend):
    """Builds automata in a child process, since they may take minutes and gigabytes.

    Stronger than the standard in JSON: objects have no properties beside named ones, and those in the order of the
    schema; arrays with ``prefixItems`` have just these; exponents have a sign; strings have no escapes but those of one
    letter. It cannot express values of just anything, so no JSON without a schema.
    """

    name = "outlines"

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self._worker = Worker(_vocabulary, lambda: (token_bytes(model), model.eos_token_ids))

    @property
    def starting(self) -> bool:
        return self._worker.starting

    def compile(self, constraint: Constraint) -> Grammar:
        """See :class:`~chatplan.guided.GrammarBackend`."""
        if constraint.kind not in _JOBS:
            raise CannotEnforce(
                f"outlines takes JSON schemas, regular expressions and choices, not a {constraint.kind}"
            )
        index = self._worker.run(*_JOBS[constraint.kind](constraint), seconds=self.model.settings.guided_seconds)
        return _Grammar(index, self.model.eos_token_ids)


class _Grammar(Grammar):
    def __init__(self, pickled: bytes, ends: tuple[int, ...]) -> None:
        self.index, self.ends = pickle.loads(pickled), ends
        self.size = _BYTES_OF_A_TRANSITION * len(pickled)

    def start(self) -> Matcher:
        return _Matcher(self, [])


class _Matcher(Matcher):
    def __init__(self, grammar: _Grammar, tokens: list[int]) -> None:
        from outlines_core import Guide  # type: ignore[import-untyped]

        self.grammar, self.tokens = grammar, tokens
        self.guide = Guide(grammar.index)
        for token_id in tokens:
            self.guide.advance(token_id, False)

    def fill(self, mask: torch.Tensor) -> None:
        self.guide.write_mask_into(mask.data_ptr(), mask.numel(), mask.element_size())
        if not mask.any():
            raise ValueError("no token of the vocabulary matches the grammar here")

    def accept(self, token_id: int) -> None:
        if token_id in self.grammar.ends or token_id < 0:
            raise ValueError(f"token {token_id} does not match the grammar")
        self.guide.advance(token_id, False)
        self.tokens.append(token_id)

    def copy(self) -> Matcher:
        # The library copies a guide with all its index; to go the way again takes a microsecond a token.
        return _Matcher(self.grammar, [*self.tokens])


# --- what the library gets --------------------------------------------------------------------------------------------

_Job = tuple[Any, ...]


def _schema(constraint: Constraint) -> _Job:
    schema = honoured(json_value(constraint), HONOURS)
    whitespace = portable(constraint.whitespace, forbidden=NO_BLANKS)
    return _from_schema, json.dumps(escaped(schema), ensure_ascii=False), whitespace


def escaped(node: Any) -> Any:
    """With the names of properties as they stand in JSON; the library escapes them only for regular expressions."""
    if isinstance(node, list):
        return [escaped(part) for part in node]
    if not isinstance(node, dict) or "enum" in node:
        return node
    read = {key: escaped(value) for key, value in node.items()}
    if node.get("type") == "object" and "properties" in node:
        read["properties"] = {_in_json(name): escaped(part) for name, part in node["properties"].items()}
        read["required"] = [_in_json(name) for name in node["required"]]
    return read


def _in_json(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)[1:-1]


def _regex(constraint: Constraint) -> _Job:
    return _index, portable(constraint.text, forbidden=NUL)


def _choice(constraint: Constraint) -> _Job:
    return _index, portable("|".join(map(re.escape, choices(constraint))), forbidden=NUL)


_JOBS: Mapping[str, Callable[[Constraint], _Job]] = {"json": _schema, "regex": _regex, "choice": _choice}


# --- in the child process ---------------------------------------------------------------------------------------------


def _vocabulary(tokens: list[bytes], ends: tuple[int, ...]) -> Any:
    from outlines_core import Vocabulary

    ids: dict[bytes, list[int]] = {_END.encode(): [token_id for token_id in ends if token_id < len(tokens)]}
    for token_id, token in enumerate(tokens):
        if token and _END.encode() not in token:
            ids.setdefault(token, []).append(token_id)
    return Vocabulary(_UNUSED, ids)


def _from_schema(vocabulary: Any, schema: str, whitespace: str) -> bytes:
    from outlines_core.json_schema import build_regex_from_schema  # type: ignore[import-untyped]

    return _index(vocabulary, build_regex_from_schema(schema, whitespace))


def _index(vocabulary: Any, expression: str) -> bytes:
    from outlines_core import Index

    return pickle.dumps(Index(rf"(?:{expression})\x00", vocabulary))
