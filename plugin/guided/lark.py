"""Grammars in Lark: the portable dialect, and structural tags written in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.tags import TYPES, as_format, goes_on, listed, texts
from chatplan.schemas.prepare import prepare

if TYPE_CHECKING:
    from chatplan.model import ModelInfo

__all__ = ["is_ebnf", "lark_grammar", "structural_tag_to_lark"]

_UNESCAPED = re.compile(r"^%import\s+common\.UNESCAPED_STRING\s*(?:->\s*(\w+))?\s*$", re.MULTILINE)
# llguidance reads ahead while only one text can follow; from `/a+/ "ab"` it never comes back, as terminals are greedy.
# The last directive wins, so it stands behind a grammar's own.
_NO_FORCING = '\n%llguidance {"no_forcing": true}\n'
# What llguidance's Lark can say that would make it lax, or that nothing here acts on.
_NOT_HONOURED = {
    r'"(?:lenient|coerce_one_of)"\s*:\s*true': "lenient and coerce_one_of would leave parts of a schema out",
    r"\w\[[^\]\n]*\btemperature\s*=": "a rule cannot set a temperature",
}
_LITERAL = re.compile(r'"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?://|#).*')


def is_ebnf(grammar: str) -> bool:
    """Whether a grammar is EBNF or GBNF (``rule ::= …``) and not Lark (``rule: …``)."""
    return "::=" in _LITERAL.sub("", grammar)


def lark_grammar(grammar: str) -> str:
    """A Lark grammar as llguidance reads it. Raises :class:`CannotEnforce` for EBNF."""
    from llguidance import LLMatcher

    if is_ebnf(grammar):
        raise CannotEnforce("the grammar is EBNF (`::=`); this backend reads Lark (`start: …`)")
    for pattern, reason in _NOT_HONOURED.items():
        if re.search(pattern, grammar):
            raise CannotEnforce(reason, wrong=True)
    # Outlines' addition to Lark's common terminals, which examples for vLLM use.
    grammar = _UNESCAPED.sub(lambda found: f'{found.group(1) or "UNESCAPED_STRING"}: /"[^"]*"/', grammar)
    return LLMatcher.grammar_from_lark(grammar + _NO_FORCING)


def json_blanks(pattern: str) -> str:
    """``pattern`` with JSON's four blanks in place of ``\\s``, which stands for those of every script."""
    written, in_class = "", False
    for piece in re.findall(r"\\.|[^\\]", pattern, re.DOTALL):
        in_class = piece == "[" or (in_class and piece != "]")
        blanks = r" \t\n\r" if in_class else r"[ \t\n\r]"
        written += blanks if piece == r"\s" else piece
    return written


def pattern_but_blanks(pattern: str) -> str:
    """A Lark grammar of what ``pattern`` matches beside JSON's blanks: space, tab, line feed and carriage return."""
    return f"start: W\nW: /{_pattern(pattern)}/ & ~/[ \\t\\n\\r]*/"


def structural_tag_to_lark(tag: Mapping[str, Any], whitespace: str, model: ModelInfo) -> str:
    """The Lark grammar of a structural tag: xgrammar's ``format``, or vLLM's ``structures`` and ``triggers``.

    Raises:
        CannotEnforce: a part is malformed or of a type that has no form in Lark.
    """
    from llguidance import LLMatcher

    writer = _Writer(whitespace, model)
    start = writer.write(as_format(tag), "/format")
    return LLMatcher.grammar_from_lark("\n".join([f"start: {start}", *writer.rules]) + _NO_FORCING)


class _Writer:
    """Writes a format as Lark rules; every part becomes a rule, so that parts can be repeated and joined."""

    def __init__(self, whitespace: str, model: ModelInfo) -> None:
        self.whitespace = whitespace
        # What ends an answer cannot stand inside of one: its name is text like any other.
        ends = model.eos_token_ids
        self.special = {text: token for token, text in model.tokens.special.items() if token not in ends}
        self.rules: list[str] = []

    def write(self, part: Any, place: str) -> str:
        """The name of the rule that matches ``part``."""
        kind = part.get("type") if isinstance(part, Mapping) else None
        method: Callable[[Any, str], str] | None = getattr(self, f"_{kind}", None) if isinstance(kind, str) else None
        if method is None or not isinstance(kind, str) or kind not in TYPES:
            raise CannotEnforce(f"type should be one of {', '.join(TYPES)}, got {kind!r}", place)
        unknown = set(part) - TYPES[kind] - {"type"}
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
        return f"/{_checked(part['pattern'], place + '/pattern')}/" if part["pattern"] else '""'

    def _any_text(self, part: Any, place: str) -> str:
        return self._free_text(texts(part, "excludes", place))

    def _sequence(self, part: Any, place: str) -> str:
        elements = listed(part, "elements", place)
        for at, (one, following) in enumerate(pairwise(elements)):
            begin = following.get("begin", following.get("value")) if isinstance(following, Mapping) else None
            if goes_on(one) and not self.begins_special(begin):
                raise CannotEnforce("takes in what follows it; put it into a tag", f"{place}/elements/{at}")
        return " ".join(self._each(part, place)) or '""'

    def _or(self, part: Any, place: str) -> str:
        listed(part, "elements", place, least=1)
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
        ends = listed(part, "end", place, least=1) if isinstance(part["end"], list) else [part["end"]]
        content, body = part["content"], ""
        if (
            isinstance(content, Mapping)
            and content.get("type") == "regex"
            and all(end and not self.holds_special(end) for end in ends)
        ):
            body = self._regex_with_end(content, ends, f"{place}/content")
        elif all(map(self.begins_special, ends)) or not goes_on(content):
            end = self.rule(" | ".join(map(self.text, ends)))
            body = f"{self.write(content, place + '/content')} {end}"
        elif content.get("type") == "any_text" and set(content) <= {"type", "excludes"} and "" not in ends:
            body = self._text_up_to(ends, texts(content, "excludes", f"{place}/content"))
        else:
            raise CannotEnforce("takes in the end of its tag", f"{place}/content")
        return f"{self.text(part['begin'])} {body}"

    def _regex_with_end(self, content: Any, ends: list[str], place: str) -> str:
        """One terminal, which is greedy as a whole: the expression alone could take in the end."""
        self._regex(content, place)
        spelled = "|".join(_pattern(re.escape(text)) for text in ends)
        name = f"T{len(self.rules)}"
        self.rules.append(f"{name}: /(?:{_pattern(content['pattern'])})(?:{spelled})/")
        return name

    def holds_special(self, text: Any) -> bool:
        """Whether the name of a special token is in a text."""
        return not isinstance(text, str) or any(name in text for name in self.special)

    def _text_up_to(self, ends: list[str], excludes: Sequence[str]) -> str:
        """Free text and the first of ``ends`` that comes. Terminals are greedy, so that a text is one with its end."""
        spelled = [text for text in ends if text not in self.special]
        rules = [self.rule(self._ending_in(spelled, excludes), "[lazy]")]
        for text in ends:
            if text in self.special:
                rules.append(self.rule(f"{self._free_text([*spelled, *excludes])} {self.text(text)}"))
        return self.rule(" | ".join(rules))

    def begins_special(self, text: Any) -> bool:
        """Whether a text begins with a special token."""
        return isinstance(text, str) and any(text.startswith(name) for name in self.special)

    def _tags_with_separator(self, part: Any, place: str) -> str:
        one = self.rule(
            " | ".join(self.write(tag, f"{place}/tags/{at}") for at, tag in enumerate(listed(part, "tags", place, 1)))
        )
        more = "" if part.get("stop_after_first") else f" ({self.text(part['separator'])} {one})*"
        return f"{one}{more}" if part.get("at_least_one") else f"({one}{more})?"

    def _triggered_tags(self, part: Any, place: str) -> str:
        """Free text in which a trigger begins a tag; a tag's own rule goes on behind the trigger."""
        triggers, tags = texts(part, "triggers", place, least=1), listed(part, "tags", place)
        excludes = texts(part, "excludes", place)
        for at, tag in enumerate(tags):
            if not tag["begin"].startswith(tuple(triggers)):
                raise CannotEnforce("begins with none of the triggers", f"{place}/tags/{at}/begin", wrong=True)
        calls = self.rule(" | ".join(self._triggered(trigger, triggers, tags, excludes, place) for trigger in triggers))
        rest = self.rule(self._free_text([*triggers, *excludes]))
        once = bool(part.get("stop_after_first"))
        if part.get("at_least_one"):
            return calls if once else f"{calls}+ {rest}"
        return f"{calls} | {rest}" if once else f"{calls}* {rest}"

    def _triggered(self, trigger: str, triggers: list[str], tags: list[Any], excludes: list[str], place: str) -> str:
        bodies = []
        for at, tag in enumerate(tags):
            if tag["begin"].startswith(trigger):
                rest = {**tag, "begin": tag["begin"][len(trigger) :]}
                bodies.append(self.write(rest, f"{place}/tags/{at}"))
        if not bodies:
            raise CannotEnforce(f"no tag begins with the trigger {trigger!r}", f"{place}/triggers", wrong=True)
        body = self.rule(" | ".join(bodies))
        if trigger in self.special:
            return f"{self.rule(self._free_text([*triggers, *excludes]))} {self.text(trigger)} {body}"
        return f"{self.rule(self._ending_in([trigger], excludes), '[lazy]')} {body}"

    def _ending_in(self, ends: Sequence[str], excludes: Sequence[str]) -> str:
        """A terminal of any text that holds none of ``excludes`` and ends in one of ``ends``."""
        return self._terminal(f"/(.|\\n)*({'|'.join(_pattern(re.escape(text)) for text in ends)})/", excludes)

    def _free_text(self, excludes: Sequence[str]) -> str:
        """Any text that holds none of ``excludes``; special tokens are never part of it."""
        return self._terminal("/(.|\\n)*/", excludes)

    def _terminal(self, regex: str, excludes: Sequence[str]) -> str:
        spelled = [_pattern(re.escape(text)) for text in excludes if text not in self.special]
        name = f"T{len(self.rules)}"
        without = "".join(f" & ~/(.|\\n)*{text}(.|\\n)*/" for text in spelled)
        self.rules.append(f"{name}: {regex}{without}")
        return name


def _pattern(regex: str) -> str:
    """A regular expression as it stands between the slashes of a Lark terminal."""
    from llguidance import regex_to_lark

    return regex_to_lark(regex, "d").replace("\n", "\\n")


def _checked(regex: str, place: str) -> str:
    """The same, where a mistake is known by its place."""
    from llguidance import LLMatcher

    pattern = _pattern(regex)
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(f"start: /{pattern}/"))
    if error:
        raise CannotEnforce(error[:300], place)
    return pattern
