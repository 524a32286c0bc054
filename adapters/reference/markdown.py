"""Small pieces of Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["as_markdown", "block", "cell", "code", "moved", "prose", "table", "without_links"]

_LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:]+)\)")
_ROLE = re.compile(r":\w+:`~?([^`]*)`")


def cell(text: str) -> str:
    """``text`` as one cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; without rows, nothing."""
    lines = ["| " + " | ".join(map(cell, row)) + " |" for row in rows]
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *lines]) + "\n" if lines else ""


def block(language: str, text: str) -> str:
    """A block of code; its fence is longer than any in ``text``."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall(r"`+", text)), 3)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def prose(text: str) -> str:
    """``text`` in which HTML is shown and not obeyed; what stands between backticks is as it was."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)


def code(value: Any) -> str:
    """``value`` as JSON, in the type of code."""
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def as_markdown(docstring: str) -> str:
    """A docstring's text: roles and double backticks become code, parts such as ``Raises:`` become lists."""
    text = prose(_ROLE.sub(lambda found: f"`{found[1].lstrip('.')}`", docstring).replace("``", "`"))
    parts = re.split(r"^(Args|Attributes|Raises|Returns|Yields):\n", text, flags=re.MULTILINE)
    heads, bodies = parts[1::2], parts[2::2]
    listed = [f"**{head}**\n\n{_list(body)}" for head, body in zip(heads, bodies, strict=True)]
    return "\n".join([parts[0], *listed]).strip() + "\n"


def _list(body: str) -> str:
    items = re.sub(r"\n {5,}", " ", body)
    return re.sub(r"^    (\S[^:\n]*): ", r"- `\1`: ", items, flags=re.MULTILINE)


def moved(text: str, prefix: str) -> str:
    """``text`` with ``prefix`` before the target of each relative link."""
    return _LINK.sub(lambda found: f"[{found[1]}]({_target(found[2], prefix)})", text)


def _target(target: str, prefix: str) -> str:
    return target if target.startswith("#") else prefix + target


def without_links(text: str) -> str:
    """``text`` with the words of relative links in place of the links, for a page that stands alone."""
    return _LINK.sub(r"\1", text)
