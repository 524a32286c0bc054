"""How one field of a request is written for one kind of server: as it is, under another name, or not at all."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from chatplan.guided.wishes import wished

if TYPE_CHECKING:
    from chatplan.guided.constraint import Constraint
    from chatplan.request import ChatCompletionRequest

__all__ = [
    "CONSTRAINTS",
    "Refused",
    "Rule",
    "Way",
    "allowed",
    "at_most",
    "constrained",
    "ebnf",
    "formats",
    "gbnf_choice",
    "here",
    "local_stream_options",
    "regex_choice",
    "renamed",
    "same",
    "usual_tool_choice",
]

Sent = Mapping[str, Any]
Rule = Callable[[str, Any, "ChatCompletionRequest"], Sent]
"""What is sent for a field: from its name, its value as JSON has it, and the request. Raises :class:`Refused`."""
Way = Callable[["Constraint"], Sent]
"""What is sent for a constraint of one kind."""

CONSTRAINTS = ("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")
_BLANKS = "[ ]?"


class Refused(Exception):
    """This value cannot be honoured; the text says why."""


def same(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
    """As it is."""
    return {name: value}


def here(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
    """Nothing is sent: it is seen to on this side."""
    return {}


def renamed(wire: str) -> Rule:
    """The same value under another name."""
    return lambda name, value, request: {wire: value}


def allowed(holds: Callable[[Any], bool], reason: str) -> Rule:
    """As it is, if ``holds``."""

    def rule(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
        if not holds(value):
            raise Refused(reason)
        return {name: value}

    return rule


def at_most(limit: int) -> Rule:
    """A number, or so many items of a list; a string is a list of one."""

    def rule(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
        value = [value] if isinstance(value, str) else value
        count = len(value) if isinstance(value, list) else value
        if not 0 <= count <= limit:
            raise Refused(f"at most {limit} there")
        return {name: value}

    return rule


def local_stream_options(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
    """Counts at the end are always asked for; those on every chunk are not known there."""
    if value.get("continuous_usage_stats"):
        raise Refused("the server counts tokens at the end of a stream only")
    return {}


def usual_tool_choice(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
    """``none`` keeps the tools from the server, so that the model is not told of them."""
    if value == "none" or not request.tools:
        return {}
    if value != "auto" and wished(request) is not None:
        raise Refused("an answer that must call a tool cannot follow another constraint as well")
    return {name: value}


def formats(*types: str) -> Rule:
    """A ``response_format`` of one of these types."""

    def rule(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
        if value["type"] not in types:
            raise Refused(f"the server knows the types {', '.join(types)}")
        return {name: value}

    return rule


def constrained(**ways: Way) -> Rule:
    """For all spellings of a constraint: what is sent depends on its kind alone."""

    def rule(name: str, value: Any, request: ChatCompletionRequest) -> Sent:
        found = wished(request)
        if found is None:
            return {}
        if found.kind not in ways:
            raise Refused(f"the server knows constraints by {', '.join(ways)} only")
        if found.whitespace != _BLANKS:
            raise Refused("the server has blanks of its own in JSON")
        return ways[found.kind](found)

    return rule


def ebnf(wire: str) -> Way:
    """A grammar for servers that read EBNF as GBNF writes it."""

    def way(found: Constraint) -> Sent:
        if "::=" not in found.text:
            raise Refused("the server reads EBNF (root ::= …), and this is Lark")
        return {wire: found.text}

    return way


def regex_choice(found: Constraint) -> str:
    """A regular expression for one of several texts."""
    return "|".join(re.sub(r"([\\.^$*+?{}\[\]|()])", r"\\\1", text) for text in found.value)


def gbnf_choice(found: Constraint) -> str:
    """A GBNF grammar for one of several texts."""
    return "root ::= " + " | ".join(f'"{"".join(map(_gbnf, text))}"' for text in found.value)


def _gbnf(character: str) -> str:
    if character in '"\\':
        return f"\\{character}"
    return character if character >= " " else f"\\x{ord(character):02X}"
