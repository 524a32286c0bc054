"""The grammar backend ``lm-format-enforcer``: JSON schemas, regular expressions and choices, character by character."""

from __future__ import annotations

import copyreg
import json
import re
from collections.abc import Hashable
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from sys import maxsize
from threading import RLock
from typing import Any

import torch

from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.honours import Honours, Schema
from chatplan.guided.json_guard import GuardedJson, Place
from chatplan.guided.keywords import honoured
from chatplan.guided.patterns import portable
from chatplan.guided.values import choices, json_value
from chatplan.guided.vocabulary import NUL, token_bytes
from chatplan.guided.worker import Worker
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo

_KEYWORDS = {
    "array": ("items", "minItems", "maxItems"),
    "object": ("properties", "required", "additionalProperties"),
}
_EXCLUDED = re.compile(r"\[\^(?:\\.|[^\]\\])*\]", re.DOTALL)
_SIZE = 2**20  # what a grammar comes to hold, roughly; the library does not tell


@hookimpl
def grammar_backend(model: ModelInfo) -> GrammarBackend | None:
    """The backend, if the library ``lm-format-enforcer`` is installed."""
    return LMFormatEnforcer(model) if find_spec("lmformatenforcer") else None


class LMFormatEnforcer(GrammarBackend):
    """Runs in this process; only the automata of regular expressions are built in a child, as they may explode.

    It writes no character that needs more than one token. Stronger than the standard in JSON: objects have no
    properties beside named ones, numbers have no exponents, and there is at most one blank between tokens.
    """

    name = "lm-format-enforcer"

    def __init__(self, model: ModelInfo) -> None:
        self.model = model
        self._worker = Worker(import_module, lambda: ("lmformatenforcer",))
        self._lock = RLock()

    @property
    def starting(self) -> bool:
        return self._worker.starting

    def compile(self, constraint: Constraint) -> Grammar:
        """See :class:`~chatplan.guided.GrammarBackend`."""
        compilers = {"json": self._json, "regex": self._regex, "choice": self._choice}
        if constraint.kind not in compilers:
            raise CannotEnforce(
                f"{self.name} takes JSON schemas, regular expressions and choices, not a {constraint.kind}"
            )
        parser = compilers[constraint.kind](constraint)
        with self._lock:
            tokens = self._json_tokens if constraint.kind == "json" else self._tokens
        return _Grammar(tokens, parser, {} if constraint.kind == "regex" else None, self.model)

    # --- parsers -----------------------------------------------------------------------------------------------------

    def _json(self, constraint: Constraint) -> Any:
        from lmformatenforcer import CharacterLevelParserConfig, JsonSchemaParser  # type: ignore[import-untyped]

        if constraint.whitespace not in ("", "[ ]?"):
            raise CannotEnforce(f"{self.name} cannot enforce blanks of {constraint.whitespace!r} between JSON tokens")
        schema = honoured(json_value(constraint), Honours(self.name, _KEYWORDS, refuse=self._refuse))
        with self._lock:
            alphabet = self._json_tokens.tokenizer_alphabet
        try:
            parser = JsonSchemaParser(schema, CharacterLevelParserConfig(alphabet, maxsize, False, 0))
        except Exception as error:  # the library raises what comes
            raise CannotEnforce(f"{self.name} cannot read the schema: {error}") from None
        place = Place(blanks=1 if constraint.whitespace else 0, whole='"integer"' in json.dumps(schema))
        return GuardedJson(parser, place)

    def _refuse(self, schema: Schema) -> str:
        """Why the library gets this schema wrong, or ""."""
        values = schema.get("enum", [])
        texts = [value for value in values if isinstance(value, str)]
        numbers = [value for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(values) not in (len(texts), len(numbers)) or "e" in "".join(map(str, numbers)):
            return "it takes values that are all texts, or all numbers without an exponent"
        for text in (*texts, *schema.get("properties", ())):
            if not self._is_writable(text) or text[:1] == " " or {*text} & {'"', "\\"}:
                return f"it cannot write {text!r}: quotes, backslashes, blanks at the beginning, rare characters"
        if schema.get("maxItems") == 0 or schema.get("minItems", 0) > 1:
            return "it counts the items of an array wrong"
        types = [part.get("type") for part in schema.get("anyOf", ())]
        if schema.get("nested") or types.count("array") > 1 or types.count("string") > 1:
            return "it confuses alternatives that are all arrays or strings, or have alternatives"
        return ""

    def _regex(self, constraint: Constraint) -> Any:
        expression = portable(constraint.text, forbidden=NUL)
        named = _EXCLUDED.sub("", expression)
        if not self._is_writable("".join(c for c in named if not (c.isascii() or c.isspace()))):
            raise CannotEnforce(f"{self.name} cannot write all characters of the regular expression, each by one token")
        return self._worker.run(_automaton, expression, seconds=self.model.settings.guided_seconds)

    def _choice(self, constraint: Constraint) -> Any:
        from lmformatenforcer import StringParser, UnionParser

        for choice in choices(constraint):
            if not self._is_writable(choice, in_json=False):
                raise CannotEnforce(f"{self.name} cannot write all characters of {choice!r:.80}, each by one token")
        return UnionParser([StringParser(choice) for choice in choices(constraint)])

    # --- tokens ------------------------------------------------------------------------------------------------------

    def _is_writable(self, text: str, in_json: bool = True) -> bool:
        with self._lock:
            characters = self._characters
        return {*text} <= characters and not (in_json and any(character < " " for character in text))

    @cached_property
    def _characters(self) -> frozenset[str]:
        return frozenset(text for text in self._texts.values() if len(text) == 1)

    @cached_property
    def _texts(self) -> dict[int, str]:
        """The tokens that are whole characters; the library reads no others."""
        found = {}
        for token_id, token in enumerate(token_bytes(self.model)):
            try:
                found[token_id] = token.decode()
            except UnicodeDecodeError:
                continue
        return {token_id: text for token_id, text in found.items() if text}

    @cached_property
    def _tokens(self) -> Any:
        return self._data(self._texts)

    @cached_property
    def _json_tokens(self) -> Any:
        """Without control characters, which the library would let into strings, and without codes of characters."""
        plain = {i: text for i, text in self._texts.items() if min(text) >= " " and "\\u" not in text}
        return self._data(plain)

    def _data(self, texts: dict[int, str]) -> Any:
        from lmformatenforcer import TokenEnforcerTokenizerData

        width = self.model.logits_width
        ends = [token_id for token_id in self.model.eos_token_ids if token_id < width]
        # Each is marked as the beginning of a word, or its text would be found by decoding it with those before it.
        tokens = [(token_id, text, True) for token_id, text in texts.items()]
        return TokenEnforcerTokenizerData(tokens, _decoded, ends, True, width)


def _decoded(token_ids: list[int]) -> str:
    """What the library shows of an answer when it fails."""
    return str(token_ids)


def _automaton(_library: Any, expression: str) -> Any:
    from interegular.fsm import anything_else
    from lmformatenforcer import RegexParser

    # There is one of it, compared by identity: it travels as its name.
    copyreg.pickle(type(anything_else), lambda _: "anything_else")
    return RegexParser(expression)


class _Grammar(Grammar):
    def __init__(self, tokens: Any, parser: Any, cache: dict[Hashable, Any] | None, model: ModelInfo) -> None:
        self.tokens, self.parser, self.cache, self.width = tokens, parser, cache, model.logits_width
        self.ends = [token_id for token_id in model.eos_token_ids if token_id < model.logits_width]
        self.lock = RLock()  # parsers share state
        self.size = _SIZE

    def start(self) -> Matcher:
        return _Matcher(self, None)


class _Matcher(Matcher):
    """Has an enforcer of its own. That would remember every prefix; it is left with the last one, under the name ()."""

    def __init__(self, grammar: _Grammar, state: Any) -> None:
        from lmformatenforcer import TokenEnforcer

        self.grammar = grammar
        with grammar.lock:
            self.enforcer = TokenEnforcer(grammar.tokens, grammar.parser)
        if grammar.cache is not None:
            self.enforcer.allowed_token_cache = grammar.cache
        if state is not None:
            self.enforcer.prefix_states = {(): state}

    def fill(self, mask: torch.Tensor) -> None:
        mask.copy_(self._go(()).allowed_tokens.allowed_tokens)

    def accept(self, token_id: int) -> None:
        known = 0 <= token_id < self.grammar.width and token_id not in self.grammar.ends
        if not known or not self._go(()).allowed_tokens.is_token_allowed(token_id):
            raise ValueError(f"token {token_id} does not match the grammar")
        self.enforcer.prefix_states = {(): self._go((token_id,))}

    def copy(self) -> Matcher:
        return _Matcher(self.grammar, self._go(()))

    def _go(self, prefix: tuple[int, ...]) -> Any:
        """The state after ``prefix``; where the library failed, it would let the answer end."""
        with self.grammar.lock:
            try:
                self.enforcer.get_allowed_tokens(list(prefix))
            except Exception as error:
                raise ValueError(f"lm-format-enforcer failed: {error}") from error
            state: Any = self.enforcer.prefix_states[prefix]
            found = state.allowed_tokens
            ends = any(map(found.is_token_allowed, self.grammar.ends))
            stopped = type(state.parser).__name__ == "ForceStopParser"
            if stopped or not found.allowed_tokens.any() or (ends and not state.parser.can_end()):
                raise ValueError("lm-format-enforcer found no way on in the middle of the answer")
        return state
