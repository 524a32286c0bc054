"""The grammar backend ``guidance``: llguidance, which reads every kind of constraint."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.lark import json_blanks, lark_grammar, pattern_but_blanks, structural_tag_to_lark
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.schemas.places import place_of
from chatplan.schemas.prepare import prepare

if TYPE_CHECKING:
    import torch
    from llguidance import LLMatcher, LLTokenizer

_PLACE = re.compile(r"^at \d+\(\d+\): ")
_MOST_PROPERTIES = 3000  # of one object; compiling takes time by their square, and a second for these
_BYTES_PER_CHARACTER = 400  # of a compiled grammar, with the lexer states of a few hundred tokens


class GuidanceBackend(GrammarBackend):
    """llguidance: grammars are parsed as the answer is written, so compiling takes about a millisecond."""

    name = "guidance"

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self._lock = threading.Lock()

    @cached_property
    def tokenizer(self) -> LLTokenizer:
        """The library's own form of the vocabulary; half a second to make."""
        return make_tokenizer(self.model)

    def compile(self, constraint: Constraint) -> Grammar:
        with self._lock:
            tokenizer = self.tokenizer
        constraint = replace(constraint, whitespace=json_blanks(constraint.whitespace))
        self._check_blanks(constraint.whitespace)
        try:
            text = getattr(self, f"_{constraint.kind}")(constraint)
        except RecursionError:
            raise CannotEnforce("is nested too deeply", wrong=True) from None
        matcher = new_matcher(tokenizer, text)
        if not matcher.is_error():
            if not has_texts(matcher):
                raise CannotEnforce("no text matches it, as llguidance reads it")
            return GuidanceGrammar(matcher, _BYTES_PER_CHARACTER * len(text))
        reason = brief(matcher.get_error())
        if constraint.kind != "grammar":  # line and column are those of a grammar that nobody wrote
            reason = _PLACE.sub("", reason)
        if constraint.kind != "json":
            raise CannotEnforce(reason, wrong=constraint.kind == "grammar" or not _is_python_regex(constraint))
        raise CannotEnforce(reason, place_of(constraint.value, lambda part: self._takes(part, constraint)))

    def _check_blanks(self, pattern: str) -> None:
        """Between JSON tokens nothing but blanks is JSON."""
        from llguidance import LLMatcher

        if pattern in ("", "[ ]?"):
            return
        others = new_matcher(self.tokenizer, LLMatcher.grammar_from_lark(pattern_but_blanks(pattern)))
        if others.is_error():
            reason = _PLACE.sub("", brief(others.get_error()))
            raise CannotEnforce(f"the pattern for whitespace cannot be read: {reason}", wrong=True)
        if has_texts(others):
            raise CannotEnforce("the pattern for whitespace matches more than blanks", wrong=True)

    def _takes(self, schema: Any, constraint: Constraint) -> bool:
        part = Constraint.of("json", schema, whitespace=constraint.whitespace)
        return not new_matcher(self.tokenizer, self._json(part)).is_error()

    def _json(self, constraint: Constraint) -> str:
        from llguidance import LLMatcher

        # Overrides win over an `x-guidance` key of the schema, which could make the grammar lenient.
        options = {"whitespace_pattern": constraint.whitespace, "lenient": False, "coerce_one_of": False}
        prepared = prepare(constraint.value)
        if widest(prepared) > _MOST_PROPERTIES:
            raise CannotEnforce(f"an object has more than {_MOST_PROPERTIES} properties", wrong=True)
        schema = json.dumps(prepared, ensure_ascii=False)
        return LLMatcher.grammar_from_json_schema(schema, overrides=options)  # type: ignore[arg-type]

    def _regex(self, constraint: Constraint) -> str:
        from llguidance import LLMatcher, regex_to_lark

        # "d": digits are 0 to 9, not those of every script.
        return LLMatcher.grammar_from_regex(regex_to_lark(constraint.text, "d"))

    def _choice(self, constraint: Constraint) -> str:
        from llguidance import grammar_from

        return grammar_from("choice", constraint.text)

    def _grammar(self, constraint: Constraint) -> str:
        return lark_grammar(constraint.text)

    def _structural_tag(self, constraint: Constraint) -> str:
        return structural_tag_to_lark(constraint.value, constraint.whitespace, self.model)


class GuidanceGrammar(Grammar):
    """A matcher that nobody moves; each answer starts from a copy, which takes a microsecond."""

    def __init__(self, matcher: LLMatcher, size: int) -> None:
        self.matcher = matcher
        self.size = size

    def start(self) -> Matcher:
        return GuidanceMatcher(self.matcher.deep_copy())


class GuidanceMatcher(Matcher):
    """llguidance's matcher, with its error state as exceptions."""

    def __init__(self, matcher: LLMatcher) -> None:
        self.matcher = matcher

    def fill(self, mask: torch.Tensor) -> None:
        self.matcher.unsafe_compute_mask_ptr(mask.data_ptr(), 4 * len(mask))
        self._check()

    def accept(self, token_id: int) -> None:
        if not self.matcher.consume_token(token_id):
            raise ValueError(f"token {token_id} does not match: {brief(self.matcher.get_error())}")

    def copy(self) -> Matcher:
        return GuidanceMatcher(self.matcher.deep_copy())

    def _check(self) -> None:
        if self.matcher.is_error():
            raise ValueError(brief(self.matcher.get_error()))


def widest(schema: Any) -> int:
    """The most values that an object in ``schema`` has."""
    inner = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    return max([len(schema) if isinstance(schema, dict) else 0, *map(widest, inner)])


def make_tokenizer(model: ModelInfo) -> LLTokenizer:
    """The vocabulary of ``model``, up to the width of its logits."""
    from llguidance import LLTokenizer

    width, ends = model.logits_width, [token for token in model.eos_token_ids if token < model.logits_width]
    if not ends:
        raise CannotEnforce("the model has no end-of-sequence token to end an answer with")
    return LLTokenizer(_Vocabulary(model), n_vocab=width, eos_token=ends)  # type: ignore[arg-type]


class _Vocabulary:
    """A tokenizer as llguidance asks for it, to spell texts that a grammar leaves no choice in.

    It is not left to read the tokenizer itself: the name of a special token in such a text would become that token.
    """

    is_tokenizer_wrapper = True

    def __init__(self, model: ModelInfo) -> None:
        self._encode = _plain_encoder(model.tokenizer)
        self.eos_token_id = model.eos_token_ids[0]
        self.bos_token_id = None
        self.tokens = [bytes(model.tokens.bytes(token)) for token in range(model.logits_width)]
        # Where a token ends answers, the same text inside of one is spelled with others.
        special = {*model.tokens.special, *model.tokenizer.all_special_ids, *model.eos_token_ids}
        self.special_token_ids = sorted(token for token in special if token < model.logits_width)

    def __call__(self, text: bytes | str) -> list[int]:
        return self._encode(text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text)


def _plain_encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    """Encodes text as text, also where it reads like a special token."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda text: list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
    own = copy(backend)
    own.no_padding()
    own.no_truncation()
    own.encode_special_tokens = True
    return lambda text: list(own.encode(text, add_special_tokens=False).ids)


def new_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher, perhaps in its error state."""
    from llguidance import LLMatcher

    return LLMatcher(tokenizer, grammar, log_level=0)


def has_texts(matcher: LLMatcher) -> bool:
    """Whether an answer can begin at all; some expressions, such as ``[a&&b]``, are no mistake but match nothing."""
    probe = matcher.deep_copy()
    probe.compute_bitmask()
    return not probe.is_error()


def brief(error: str) -> str:
    """The first lines of an error of llguidance, without its picture of the grammar."""
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    kept = [line for line in lines if not line.startswith(("|", "^")) and " | " not in line]
    return " ".join(kept or lines)[:300].rstrip(" |")


def _is_python_regex(constraint: Constraint) -> bool:
    """Whether another backend may know better: a pattern that Python cannot read either is wrong for all."""
    if constraint.kind != "regex":
        return True
    try:
        re.compile(constraint.text)
    except (re.error, RecursionError, OverflowError):
        return False
    return True


@hookimpl
def grammar_backend(model: ModelInfo) -> GrammarBackend | None:
    """Always there: llguidance comes with the base install."""
    return GuidanceBackend(model)
