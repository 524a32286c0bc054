"""Grammars in Lark: the portable dialect, and structural tags written in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.json_schema import prepare

if TYPE_CHECKING:
    from chatplan.model import ModelInfo

__all__ = ["is_ebnf", "lark_grammar", "structural_tag_to_lark"]

_UNESCAPED = re.compile(r"^%import\s+common\.UNESCAPED_STRING\s*(?:->\s*(\w+))?\s*$", re.MULTILINE)
_LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?://|#).*')


def is_ebnf(grammar: str) -> bool:
    """Whether a grammar is EBNF or GBNF (``rule ::= …``) and not Lark (``rule: …``)."""
    return "::=" in _LITERAL.sub("", grammar)


def lark_grammar(grammar: str) -> str:
    """A Lark grammar as llguidance reads it. Raises :class:`CannotEnforce` for EBNF."""
    from llguidance import LLMatcher

    if is_ebnf(grammar):
        raise CannotEnforce("the grammar is EBNF (`::=`); this backend reads Lark (`start: …`)")
    # Outlines' addition to Lark's common terminals, which examples for vLLM use.
    grammar = _UNESCAPED.sub(lambda found: f'{found.group(1) or "UNESCAPED_STRING"}: /"[^"]*"/', grammar)
    return LLMatcher.grammar_from_lark(grammar)


def structural_tag_to_lark(tag: Mapping[str, Any], whitespace: str, model: ModelInfo) -> str:
    """The Lark grammar of a structural tag: xgrammar's ``format``, or vLLM's ``structures`` and ``triggers``.

    Raises:
        CannotEnforce: a part is malformed or of a type that has no form in Lark.
    """
    from llguidance import LLMatcher

    writer = _Writer(whitespace, model)
    try:
        start = writer.write(as_format(tag), "/format")
    except RecursionError:
        raise CannotEnforce("is nested too deeply", wrong=True) from None
    return LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *writer.rules]))


def as_format(tag: Mapping[str, Any]) -> Any:
    """The ``format`` of a structural tag in any of its spellings."""
    if "structures" in tag:
        tags = [
            {
                "type": "tag",
                "begin": item["begin"],
                "content": {"type": "json_schema", "json_schema": item["schema"]},
                "end": item["end"],
            }
            for item in tag["structures"]
        ]
        return {"type": "triggered_tags", "triggers": tag["triggers"], "tags": tags}
    return tag["format"] if tag.get("type") == "structural_tag" else tag


class _Writer:
    """Writes a format as Lark rules; every part becomes a rule, so that parts can be repeated and joined."""

    def __init__(self, whitespace: str, model: ModelInfo) -> None:
        self.whitespace = whitespace
        self.special = {text: token for token, text in model.tokens.special.items()}
        self.rules: list[str] = []

    def write(self, part: Any, place: str) -> str:
        """The name of the rule that matches ``part``."""
        kind = part.get("type") if isinstance(part, Mapping) else None
        method: Callable[[Any, str], str] | None = getattr(self, f"_{kind}", None) if isinstance(kind, str) else None
        if method is None or not isinstance(kind, str) or kind not in _TYPES:
            raise CannotEnforce(f"type should be one of {', '.join(_TYPES)}, got {kind!r}", place)
        unknown = set(part) - _TYPES[kind] - {"type"}
        if unknown:
            raise CannotEnforce(f"{kind} has no {', '.join(sorted(unknown))} here", place)
        try:
            return self.rule(method(part, place))
        except (KeyError, TypeError, AttributeError) as error:
            raise CannotEnforce(f"{kind} is malformed: {error!r}", place, wrong=True) from error

    def rule(self, body: str, options: str = "") -> str:
        name = f"r{len(self.rules)}"
        self.rules.append(f"{name}{options}: {body}")
        return name

    def text(self, text: str) -> str:
        """A literal; the names of special tokens in it are those tokens."""
        if not self.special:
            return json.dumps(text)
        pieces = re.split(f"({'|'.join(map(re.escape, sorted(self.special, key=len, reverse=True)))})", text)
        written = [f"<[{self.special[piece]}]>" if piece in self.special else json.dumps(piece) for piece in pieces]
        return " ".join(item for item in written if item != '""') or '""'

    def _const_string(self, part: Any, place: str) -> str:
        return self.text(part["value"])

    def _json_schema(self, part: Any, place: str) -> str:
        try:
            schema = prepare(part["json_schema"])
        except CannotEnforce as error:
            raise CannotEnforce(error.reason, f"{place}/json_schema{error.place}", error.wrong) from None
        schema = schema if isinstance(schema, dict) else ({} if schema else {"not": {}})
        options = {"whitespace_pattern": self.whitespace, "lenient": False, "coerce_one_of": False}
        return f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}"

    def _regex(self, part: Any, place: str) -> str:
        return f"/{_pattern(part['pattern'])}/" if part["pattern"] else '""'

    def _any_text(self, part: Any, place: str) -> str:
        return self._free_text(part.get("excludes", ()))

    def _sequence(self, part: Any, place: str) -> str:
        return " ".join(self._each(part, place)) or '""'

    def _or(self, part: Any, place: str) -> str:
        return " | ".join(self._each(part, place))

    def _each(self, part: Any, place: str) -> list[str]:
        return [self.write(item, f"{place}/elements/{at}") for at, item in enumerate(part["elements"])]

    def _optional(self, part: Any, place: str) -> str:
        return f"{self.write(part['content'], place + '/content')}?"

    def _plus(self, part: Any, place: str) -> str:
        return f"{self.write(part['content'], place + '/content')}+"

    def _star(self, part: Any, place: str) -> str:
        return f"{self.write(part['content'], place + '/content')}*"

    def _tag(self, part: Any, place: str) -> str:
        ends = part["end"] if isinstance(part["end"], list) else [part["end"]]
        content = self.write(part["content"], f"{place}/content")
        end = self.rule(" | ".join(map(self.text, ends)))
        return f"{self.text(part['begin'])} {content} {end}"

    def _tags_with_separator(self, part: Any, place: str) -> str:
        one = self.rule(" | ".join(self.write(tag, f"{place}/tags/{at}") for at, tag in enumerate(part["tags"])))
        more = "" if part.get("stop_after_first") else f" ({self.text(part['separator'])} {one})*"
        return f"{one}{more}" if part.get("at_least_one") else f"({one}{more})?"

    def _triggered_tags(self, part: Any, place: str) -> str:
        """Free text in which a trigger begins a tag; a tag's own rule goes on behind the trigger."""
        triggers, tags = list(part["triggers"]), list(part["tags"])
        calls = self.rule(" | ".join(self._triggered(trigger, tags, place) for trigger in triggers))
        rest = self.rule(self._free_text([*triggers, *part.get("excludes", ())]))
        once = bool(part.get("stop_after_first"))
        if part.get("at_least_one"):
            return calls if once else f"{calls}+ {rest}"
        return f"{calls} | {rest}" if once else f"{calls}* {rest}"

    def _triggered(self, trigger: str, tags: list[Any], place: str) -> str:
        bodies = []
        for at, tag in enumerate(tags):
            if tag["begin"].startswith(trigger):
                rest = {**tag, "begin": tag["begin"][len(trigger) :]}
                bodies.append(self.write(rest, f"{place}/tags/{at}"))
        if not bodies:
            raise CannotEnforce(f"no tag begins with the trigger {trigger!r}", f"{place}/triggers", wrong=True)
        body = self.rule(" | ".join(bodies))
        if trigger in self.special:
            return f"{self.rule(self._free_text(()))} {self.text(trigger)} {body}"
        head = self.rule(f"/(.|\\n)*{_pattern(re.escape(trigger))}/", "[lazy]")
        return f"{head} {body}"

    def _free_text(self, excludes: Any) -> str:
        """Any text that holds none of ``excludes``; special tokens are never part of it."""
        spelled = [_pattern(re.escape(text)) for text in excludes if text not in self.special]
        name = f"T{len(self.rules)}"
        without = "".join(f" & ~/(.|\\n)*{text}(.|\\n)*/" for text in spelled)
        self.rules.append(f"{name}: /(.|\\n)*/{without}")
        return name


def _pattern(regex: str) -> str:
    """A regular expression as it stands between the slashes of a Lark terminal."""
    from llguidance import regex_to_lark

    return regex_to_lark(regex, "d").replace("\n", "\\n")


_TYPES: Mapping[str, frozenset[str]] = {
    "const_string": frozenset({"value"}),
    "json_schema": frozenset({"json_schema"}),
    "regex": frozenset({"pattern"}),
    "any_text": frozenset({"excludes"}),
    "sequence": frozenset({"elements"}),
    "or": frozenset({"elements"}),
    "optional": frozenset({"content"}),
    "plus": frozenset({"content"}),
    "star": frozenset({"content"}),
    "tag": frozenset({"begin", "content", "end"}),
    "tags_with_separator": frozenset({"tags", "separator", "at_least_one", "stop_after_first"}),
    "triggered_tags": frozenset({"triggers", "tags", "at_least_one", "stop_after_first", "excludes"}),
}
"""The types of format that have a form in Lark, and their keys."""
