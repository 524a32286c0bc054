"""The grammar backend ``xgrammar``: JSON schemas, regular expressions, choices, EBNF grammars and structural tags."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from importlib.util import find_spec
from threading import Lock
from typing import Any

import numpy as np
import torch

from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.keywords import Honours, Schema, choices, honoured, json_value
from chatplan.guided.vocabulary import portable, token_bytes
from chatplan.guided.worker import Worker
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _refuse(schema: Schema) -> str:
    if any(schema.get(bound, 0) % 1 for bound in _BOUNDS):
        return "it gets bounds wrong that are no whole numbers"
    return ""


HONOURS = Honours(
    "xgrammar",
    {
        "string": ("minLength", "maxLength", "pattern", "format"),
        "integer": _BOUNDS,
        "number": _BOUNDS,
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "object": ("properties", "required", "additionalProperties"),
    },
    refuse=_refuse,
    lengths=False,  # it lets control characters into strings of some lengths
)
_EBNF_RULE = re.compile(r"^\s*[A-Za-z_][\w.-]*\s*::=", re.MULTILINE)
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
        job = _JOBS[constraint.kind](constraint)
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


# --- what the library gets --------------------------------------------------------------------------------------------


def _schema(constraint: Constraint) -> tuple[str, str]:
    if constraint.whitespace not in ("", "[ ]?"):
        raise CannotEnforce(
            f"xgrammar knows blanks of '' and '[ ]?' between JSON tokens, not {constraint.whitespace!r}"
        )
    schema = json.dumps(honoured(json_value(constraint), HONOURS), ensure_ascii=False)
    return ("spaced" if constraint.whitespace else "compact"), schema


def _regex(constraint: Constraint) -> tuple[str, str]:
    return "regex", portable(constraint.text)


def _choice(constraint: Constraint) -> tuple[str, str]:
    return "grammar", "root ::= " + " | ".join(map(_literal, choices(constraint)))


def _literal(text: str) -> str:
    plain = (f"\\u{ord(c):04x}" if c < " " or c in '"\\' else c for c in text)
    return '"' + "".join(plain) + '"'


def _ebnf(constraint: Constraint) -> tuple[str, str]:
    return "grammar", _is_ebnf(constraint.text, "")


def _is_ebnf(text: Any, place: str) -> str:
    if not isinstance(text, str) or not _EBNF_RULE.search(text):
        raise CannotEnforce("xgrammar reads EBNF, rules with '::='; the backend 'guidance' reads Lark", place)
    return text


def _structural_tag(constraint: Constraint) -> tuple[str, str]:
    if constraint.whitespace != "[ ]?":
        raise CannotEnforce("a structural tag says itself where there may be whitespace")
    value = json_value(constraint)
    if isinstance(value, dict) and "structures" in value:
        form = _legacy(value)
    elif isinstance(value, dict) and value.get("type") == "structural_tag" and value.keys() <= {"type", "format"}:
        form = _read(value.get("format"), "/format")
    else:
        form = _read(value, "")
    return "structural_tag", json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False)


_Reader = Callable[[Any, str], Any]


def _read(node: Any, place: str) -> dict[str, Any]:
    """One format of a structural tag: only fields that are known to be enforced, and schemas made safe."""
    kind = node.get("type") if isinstance(node, dict) else None
    fields = _FORMATS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise CannotEnforce(f"xgrammar is not known to enforce structural tags of type {kind!r:.80}", place)
    for key in node:
        if key != "type" and key not in fields:
            raise CannotEnforce(f"xgrammar is not known to enforce {key!r} of {kind!r}", f"{place}/{key}")
    whitespace = {"max_whitespace_cnt": 1} if kind == "json_schema" else {}
    return {"type": kind, **whitespace, **{k: fields[k](v, f"{place}/{k}") for k, v in node.items() if k != "type"}}


def _legacy(value: dict[str, Any]) -> dict[str, Any]:
    """The older form, of ``structures`` with ``begin``, ``schema`` and ``end``, and ``triggers``."""
    tags = []
    for at, part in enumerate(_list(value["structures"], "/structures")):
        place = f"/structures/{at}"
        if not isinstance(part, dict) or part.keys() != {"begin", "schema", "end"}:
            raise CannotEnforce("a structure has 'begin', 'schema' and 'end'", place, wrong=True)
        schema = part["schema"]
        if isinstance(schema, str):
            schema = json_value(Constraint("json", schema))
        content = {
            "type": "json_schema",
            "max_whitespace_cnt": 1,
            "json_schema": _inner_schema(schema, f"{place}/schema"),
        }
        begin, end = _text(part["begin"], f"{place}/begin"), _text(part["end"], f"{place}/end")
        tags.append({"type": "tag", "begin": begin, "content": content, "end": end})
    if not value.keys() <= {"type", "structures", "triggers"}:
        raise CannotEnforce("only 'structures' and 'triggers' are enforced here", wrong=True)
    return {"type": "triggered_tags", "triggers": _text(value.get("triggers"), "/triggers"), "tags": tags}


def _text(value: Any, place: str) -> Any:
    """A text or several; no token, since the library lets no special one through."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise CannotEnforce("xgrammar takes texts here", place)
    return value


def _plain(value: Any, place: str) -> Any:
    """A number or truth value; whether it is the right one, the library says."""
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise CannotEnforce("this must be a list", place, wrong=True)
    return value


def _inner(value: Any, place: str) -> Any:
    return _read(value, place)


def _inners(value: Any, place: str) -> Any:
    return [_read(part, f"{place}/{at}") for at, part in enumerate(_list(value, place))]


def _inner_schema(value: Any, place: str) -> Any:
    return honoured(value, HONOURS, place)


def _pattern(value: Any, place: str) -> Any:
    try:
        return portable(str(value))
    except CannotEnforce as error:
        raise CannotEnforce(error.reason, place) from None


_FORMATS: Mapping[str, Mapping[str, _Reader]] = {
    "const_string": {"value": _text},
    "json_schema": {"json_schema": _inner_schema, "max_whitespace_cnt": _plain},
    "regex": {"pattern": _pattern},
    "grammar": {"grammar": _is_ebnf},
    "any_text": {"excludes": _text},
    "sequence": {"elements": _inners},
    "or": {"elements": _inners},
    "optional": {"content": _inner},
    "plus": {"content": _inner},
    "star": {"content": _inner},
    "repeat": {"content": _inner, "min": _plain, "max": _plain},
    "tag": {"begin": _text, "content": _inner, "end": _text},
    "tags_with_separator": {"tags": _inners, "separator": _text, "at_least_one": _plain, "stop_after_first": _plain},
    "triggered_tags": {
        "triggers": _text, "tags": _inners, "at_least_one": _plain, "stop_after_first": _plain, "excludes": _text,
    },
}  # fmt: skip
_JOBS: Mapping[str, Callable[[Constraint], tuple[str, str]]] = {
    "json": _schema, "regex": _regex, "choice": _choice, "grammar": _ebnf, "structural_tag": _structural_tag,
}  # fmt: skip


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
