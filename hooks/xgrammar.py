"""The grammar backend ``xgrammar``: JSON schemas, regular expressions, choices, EBNF grammars and structural tags."""

from __future__ import annotations

import re
from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np
import torch

from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.vocabulary import token_bytes
from chatplan.guided.worker import Worker
from chatplan.guided.xgrammar_jobs import xgrammar_job
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo

_WHITESPACE_RULE = re.compile(r'^(\w+ ::= \("" \| \(\[ )\\n\\r\\t(\]\)\))$', re.MULTILINE)
_Halves = tuple[frozenset[int], torch.Tensor]
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf]")
_SOURCE = re.compile(r"^\[\d\d:\d\d:\d\d\] \S+: (?:Check failed: \(.*?\) is false: )?")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|.)", re.DOTALL)


@hookimpl
def grammar_backend(model: ModelInfo) -> GrammarBackend | None:
    """The backend, if the library ``xgrammar`` is installed."""
    return XGrammar(model) if find_spec("xgrammar") else None


class XGrammar(GrammarBackend):
    """Compiles in a child process, since the library takes as long as it likes; masks are made in this one.

    Objects have no properties beside named ones. In structural tags, the JSON is standard JSON with at most one blank,
    tab or line break between its tokens, and special tokens take no part.
    """

    name = "xgrammar"

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self._worker = Worker(_compiler, self._vocabulary)
        self._lock = Lock()

    @property
    def starting(self) -> bool:
        return self._worker.starting

    def compile(self, constraint: Constraint) -> Grammar:
        """See :class:`~chatplan.guided.GrammarBackend`."""
        job = xgrammar_job(constraint)
        with self._lock:
            tokenizer, halves = self._tokenizer, self._halves
        from xgrammar import CompiledGrammar

        compiled = self._worker.run(_compile, *job, seconds=self.model.settings.guided_seconds)
        return _Grammar(CompiledGrammar.deserialize_json(compiled, tokenizer), self.model, halves)

    def _vocabulary(self) -> tuple[list[bytes], list[int]]:
        tokens = [b"" if _SURROGATE.search(token) else token for token in token_bytes(self.model)]
        return tokens, [token_id for token_id in self.model.eos_token_ids if token_id < len(tokens)]

    @cached_property
    def _tokenizer(self) -> Any:
        return _tokenizer(*self._vocabulary())

    @cached_property
    def _halves(self) -> _Halves:
        """The tokens after which some may not come, and a mask of all others: together they would be no character."""
        tokens, _ = self._vocabulary()
        kept = [not b"\xa0" <= token[:1] < b"\xc0" for token in tokens] + [True] * (-len(tokens) % 32)
        mask = torch.from_numpy(np.packbits(kept, bitorder="little").view(np.int32))
        return frozenset(at for at, token in enumerate(tokens) if token.endswith(b"\xed")), mask


class _Grammar(Grammar):
    def __init__(self, compiled: Any, model: ModelInfo, halves: _Halves) -> None:
        self.compiled, self.model, self.halves = compiled, model, halves
        self.size = int(compiled.memory_size_bytes)

    def start(self) -> Matcher:
        from xgrammar import GrammarMatcher

        return _Matcher(GrammarMatcher(self.compiled), self)


class _Matcher(Matcher):
    def __init__(self, matcher: Any, grammar: _Grammar, last: int = -1) -> None:
        self.matcher, self.grammar, self.last = matcher, grammar, last

    def fill(self, mask: torch.Tensor) -> None:
        self.matcher.fill_next_token_bitmask(mask)
        if beyond := self.grammar.model.logits_width % 32:  # the library may set bits for no token
            mask.numpy().view(np.uint32)[-1] &= (1 << beyond) - 1
        halves, others = self.grammar.halves
        if self.last in halves:
            mask &= others
        if not mask.any():
            raise ValueError("no token of the vocabulary matches the grammar here")

    def accept(self, token_id: int) -> None:
        model = self.grammar.model
        known = 0 <= token_id < model.logits_width and token_id not in model.eos_token_ids
        if not known or not self.matcher.accept_token(token_id):
            raise ValueError(f"token {token_id} does not match the grammar")
        self.last = token_id

    def copy(self) -> Matcher:
        return _Matcher(self.matcher.fork(), self.grammar, self.last)


# --- in the child process ---------------------------------------------------------------------------------------------


def _tokenizer(tokens: list[bytes], ends: list[int]) -> Any:
    from xgrammar import TokenizerInfo, VocabType

    return TokenizerInfo(tokens, VocabType.RAW, vocab_size=len(tokens), stop_token_ids=ends)


def _compiler(tokens: list[bytes], ends: list[int]) -> Any:
    from xgrammar import GrammarCompiler

    return GrammarCompiler(_tokenizer(tokens, ends), cache_enabled=False)


def _compile(compiler: Any, job: str, text: str) -> str:
    """What the library makes of it, as text that travels between processes."""
    try:
        return str(_compiled(compiler, job, text).serialize_json())
    except RuntimeError as error:
        raise CannotEnforce(_SOURCE.sub("", str(error))) from None


def _compiled(compiler: Any, job: str, text: str) -> Any:
    if job == "spaced":
        return compiler.compile_grammar(_spaced(text))
    if job == "compact":
        return compiler.compile_json_schema(text, any_whitespace=False, separators=(",", ":"))
    return getattr(compiler, f"compile_{job}")(text)


def _spaced(schema: str) -> str:
    """The grammar of a schema with ``[ ]?`` between tokens, where the library's own option allows tabs and lines too.

    Its printer writes characters as ``\\xe9``, but its parser reads on through all hexadecimal digits that follow.
    """
    from xgrammar import Grammar as Printed

    printed = str(Printed.from_json_schema(schema, any_whitespace=True, max_whitespace_cnt=1))
    exact = _ESCAPE.sub(lambda found: f"\\u00{found[1]}" if found[1] else found[0], printed)
    spaced = _WHITESPACE_RULE.sub(r"\1\2", exact)
    if r"[ \n\r\t]" in spaced:
        raise CannotEnforce("xgrammar writes its rules for whitespace in another way than expected")
    return spaced
