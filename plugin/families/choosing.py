"""Which format does a model answer in?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from chatplan.families.format import AnswerFormat, Reasoning

__all__ = ["built_in_formats", "find_format", "format_of_template"]

_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


@lru_cache(maxsize=1)
def built_in_formats() -> Mapping[str, AnswerFormat]:
    """The formats that come with the package, by name."""
    found = [file for file in files("chatplan.families").iterdir() if file.name.endswith(".json")]
    found.sort(key=lambda file: file.name)
    texts = {file.name.removesuffix(".json"): file.read_text(encoding="utf-8") for file in found}
    return MappingProxyType({name: AnswerFormat.from_dict(name, json.loads(text)) for name, text in texts.items()})


def find_format(
    wanted: str | None, chat_template: str | None, model_type: str | None, formats: Mapping[str, AnswerFormat]
) -> AnswerFormat | None:
    """The format that is asked for, else the one whose marks are in the chat template.

    Of several that match, the one with the most marks wins, then the first; so it is where several families go by the
    name that is asked for. The model's type decides only for templates without marks of any format.

    Args:
        wanted: a format's own name, or one of its ``names``.
        chat_template: the template that writes the prompts.
        model_type: ``model_type`` of the model's configuration.
        formats: the formats to choose from.

    Returns:
        ``None`` when nothing is asked for and nothing matches.

    Raises:
        ValueError: no format is called ``wanted``.
    """
    called = formats if wanted is None else _called(wanted, formats)
    best, most = None, 0
    for candidate in called.values():
        if (marks := _marks_found(candidate, chat_template or "")) > most:
            best, most = candidate, marks
    if best is None and wanted is not None:
        return next(iter(called.values()))
    if best is None and model_type:
        best = next((candidate for candidate in called.values() if model_type in candidate.model_types), None)
    return best


def _called(wanted: str, formats: Mapping[str, AnswerFormat]) -> Mapping[str, AnswerFormat]:
    """The formats of that name; the one whose own name it is comes first."""
    own = {wanted: formats[wanted]} if wanted in formats else {}
    if called := own | {name: each for name, each in formats.items() if wanted in each.names}:
        return called
    known = sorted({name for each in formats.values() for name in (each.name, *each.names)})
    raise ValueError(f"no answer format is called {wanted!r}; there are {', '.join(known)}")


def _marks_found(candidate: AnswerFormat, chat_template: str) -> int:
    matched = [marks for marks in candidate.detect if all(mark in chat_template for mark in marks)]
    return max(map(len, matched), default=0)


def format_of_template(response_template: Mapping[str, Any], base: AnswerFormat | None) -> AnswerFormat:
    """The format that a tokenizer's own response template states.

    Args:
        response_template: the template, which is used as it is.
        base: the format detected otherwise, for what the template does not state: how to write a call, and the marks
            of reasoning where the template has patterns for them.
    """
    fields: Mapping[str, Any] = response_template.get("fields", {})
    field = next((fields[name] for name in _REASONING_FIELDS if name in fields), None)
    known = None if base is None else base.reasoning
    reasoning = None if field is None else _marks_of(field) or known
    own = AnswerFormat("response_template", (), response_template, reasoning, None, None)
    if base is None or "tool_calls" not in fields:
        return own
    same_body = fields["tool_calls"].get("content") == "json" and not _has_captures(fields["tool_calls"])
    return replace(own, calls=base.calls, stream_key=base.stream_key if same_body else None)


def _marks_of(field: Mapping[str, Any]) -> Reasoning | None:
    opening, closing = _literal(field.get("open")), _literal(field.get("close"))
    return Reasoning(opening, closing) if opening and closing else None


def _literal(mark: Any) -> str:
    """The first of a field's marks without the line breaks around it; empty for a field that has none."""
    first = mark[0] if isinstance(mark, (list, tuple)) and mark else mark
    return first.strip() if isinstance(first, str) else ""


def _has_captures(field: Mapping[str, Any]) -> bool:
    return "(?P<" in field.get("open_pattern", "") + field.get("close_pattern", "")
