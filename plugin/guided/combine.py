"""One constraint out of those that plugins ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from chatplan.errors import RequestError
from chatplan.guided.backend import CannotEnforce
from chatplan.guided.constraint import Constraint
from chatplan.guided.tags import as_format

__all__ = ["one_constraint"]


def one_constraint(answers: Sequence[tuple[str, Constraint]]) -> tuple[str, Constraint]:
    """The plugin and the constraint that holds; an alternative is joined to it.

    Raises:
        RequestError: there are two, or the two cannot be joined.
    """
    required = [answer for answer in answers if not answer[1].alternative]
    if len(required) > 1:
        names = ", ".join(constraint.param for _, constraint in required)
        raise RequestError(f"only one constraint on the output is allowed, got {names}", param=required[1][1].param)
    if not required:
        return answers[0]
    plugin, constraint = required[0]
    for other in (each for _, each in answers if each.alternative):
        try:
            elements = [as_format(other.value), _as_format(constraint)]
        except CannotEnforce as error:
            raise RequestError(str(error), param=constraint.param) from error
        tag = {"type": "or", "elements": elements}
        constraint = replace(Constraint.of("structural_tag", tag), **_kept(constraint))
    return plugin, constraint


def _kept(constraint: Constraint) -> dict[str, Any]:
    names = ("whitespace", "before", "after", "thinking", "param")
    return {name: getattr(constraint, name) for name in names}


def _as_format(constraint: Constraint) -> Any:
    if constraint.kind == "json":
        return {"type": "json_schema", "json_schema": constraint.value}
    if constraint.kind == "regex":
        return {"type": "regex", "pattern": constraint.text}
    if constraint.kind == "choice":
        return {"type": "or", "elements": [{"type": "const_string", "value": each} for each in constraint.value]}
    if constraint.kind == "structural_tag":
        return as_format(constraint.value)
    raise RequestError("tools may be called instead, and a grammar cannot be joined with calls", param=constraint.param)
