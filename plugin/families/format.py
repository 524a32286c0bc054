"""What is known of a model family: how it marks reasoning, how it writes calls, and how to read both back."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from chatplan.families.fields import Fields

__all__ = ["AnswerFormat", "CallSyntax", "Reasoning"]

_NAME = "{name}"
_REGIONS = ("content", "reasoning_content", "tool_calls")


@dataclass(frozen=True)
class Reasoning:
    """The marks around what a model thinks before it answers.

    Attributes:
        open: text that opens the reasoning, such as ``<think>``.
        close: text that ends it, such as ``</think>``.
    """

    open: str
    close: str


@dataclass(frozen=True)
class CallSyntax:
    """How calls are written, for families whose arguments are one JSON object.

    An answer that is nothing but calls reads ``start``, then for each call ``begin``, the arguments and ``end``, with
    ``separator`` between two calls, then ``stop``.

    Attributes:
        begin: what precedes the arguments. ``{name}``, which is in it exactly once, stands for the function's name;
            all other braces are themselves.
        end: what follows the arguments.
        separator: stands between two calls.
        start: stands before the first call.
        stop: stands after the last call.
        trigger: a beginning of ``start + begin`` by which a call is known to have begun in free text; empty where no
            text tells, so that calls can only be enforced from the first token on.
    """

    begin: str
    end: str
    separator: str
    start: str = ""
    stop: str = ""
    trigger: str = ""

    def begin_of(self, name: str) -> str:
        """``begin`` with the function's name in place, escaped where it is inside a JSON string."""
        escaped = json.dumps(name, ensure_ascii=False)[1:-1] if f'"{_NAME}"' in self.begin else name
        return self.begin.replace(_NAME, escaped)

    @classmethod
    def from_dict(cls, name: str, data: Any) -> CallSyntax:
        """The syntax that a JSON object states; the keys are the attributes.

        Raises:
            ValueError: a key is missing, unknown or of the wrong type, ``begin`` has no place for the name, or the
                trigger does not begin a call.
        """
        fields = Fields(name, data, required=("begin", "end", "separator"), optional=("start", "stop", "trigger"))
        syntax = cls(**{key: fields.text(key) for key in fields.given})
        if syntax.begin.count(_NAME) != 1:
            raise ValueError(f"{name}.begin: {_NAME} must be in it exactly once")
        if not (syntax.start + syntax.begin.partition(_NAME)[0]).startswith(syntax.trigger):
            raise ValueError(f"{name}.trigger: start and begin, up to the name, do not begin with {syntax.trigger!r}")
        return syntax


@dataclass(frozen=True)
class AnswerFormat:
    """One family's way to answer.

    Attributes:
        name: its own name, which is that of its file.
        names: what parsers for this family are called elsewhere, of tool calls as well as of reasoning.
        response_template: a response template of transformers, which cuts an answer into the regions ``content``,
            ``reasoning_content`` and ``tool_calls``.
        reasoning: the marks around reasoning; ``None`` where the family has none.
        calls: how to write a call; ``None`` where arguments are not one JSON object, so no grammar can be made.
        stream_key: where the text of a call's region is ``{"name": …, KEY: {…}}``, or a list of such, that key.
        pythonic: the text of a call's region is Python calls, for ``read_pythonic``.
        detect: lists of strings; a chat template that contains all strings of one of them is of this family.
        model_types: types of models that always answer like this, for templates that tell nothing.
    """

    name: str
    names: tuple[str, ...]
    response_template: Mapping[str, Any]
    reasoning: Reasoning | None
    calls: CallSyntax | None
    stream_key: str | None
    pythonic: bool = False
    detect: tuple[tuple[str, ...], ...] = ()
    model_types: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, name: str, data: Any) -> AnswerFormat:
        """The format that a JSON object states; the keys are the attributes but ``name``.

        All keys but ``response_template`` may be left out, and so may the template's start anchor: then only marks of
        reasoning at the very end of the prompt are read.

        Raises:
            ValueError: a key is missing, unknown or of the wrong type; it names the format and the key.
        """
        optional = ("names", "reasoning", "calls", "stream_key", "pythonic", "detect", "model_types")
        fields = Fields(name, data, required=("response_template",), optional=optional)
        reasoning = _reasoning(f"{name}.reasoning", fields.get("reasoning"))
        calls = fields.get("calls")
        return cls(
            name=name,
            names=fields.texts("names"),
            response_template=_response_template(
                f"{name}.response_template", fields.get("response_template"), reasoning
            ),
            reasoning=reasoning,
            calls=None if calls is None else CallSyntax.from_dict(f"{name}.calls", calls),
            stream_key=None if fields.get("stream_key") is None else fields.text("stream_key"),
            pythonic=fields.flag("pythonic"),
            detect=fields.text_lists("detect"),
            model_types=fields.texts("model_types"),
        )

    def without_reasoning(self) -> AnswerFormat:
        """The same calls, for a model that does not reason; marks of reasoning are then text like any other."""
        template = dict(self.response_template)
        template["fields"] = {key: field for key, field in template["fields"].items() if key != "reasoning_content"}
        return replace(self, response_template=template, reasoning=None)


def _reasoning(name: str, data: Any) -> Reasoning | None:
    if data is None:
        return None
    fields = Fields(name, data, required=("open", "close"))
    return Reasoning(fields.text("open"), fields.text("close"))


def _response_template(name: str, data: Any, reasoning: Reasoning | None) -> Mapping[str, Any]:
    fields = Fields(name, data, ("fields",), ("start_anchor", "start_anchor_pattern", "defaults", "version"))
    Fields(f"{name}.fields", fields.get("fields"), optional=_REGIONS)
    if {"start_anchor", "start_anchor_pattern"} & set(fields.given):
        return dict(fields.given)
    return {**fields.given, "start_anchor_pattern": prompt_end_pattern(reasoning)}


def prompt_end_pattern(reasoning: Reasoning | None) -> str:
    """A start anchor that skips all of a prompt but marks of reasoning at its very end."""
    if reasoning is None:
        return r"\A.*\Z"
    marks = rf"{re.escape(reasoning.open)}\s*(?:{re.escape(reasoning.close)}\s*)?"
    return rf"\A.*?(?=(?:{marks})?\Z)"
