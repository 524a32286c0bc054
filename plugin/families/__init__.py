"""How model families write tool calls and reasoning."""

from __future__ import annotations

from chatplan.families.choosing import built_in_formats, find_format, format_of_template
from chatplan.families.format import AnswerFormat, CallSyntax, Reasoning
from chatplan.families.pythonic import read_pythonic

__all__ = [
    "AnswerFormat",
    "CallSyntax",
    "Reasoning",
    "built_in_formats",
    "find_format",
    "format_of_template",
    "read_pythonic",
]
