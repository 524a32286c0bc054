"""Calls written as Python, ``[weather(city="Bern"), clock()]``: read, never run."""

from __future__ import annotations

import ast
import math
from typing import Any

__all__ = ["read_pythonic"]

_CONSTANTS = {"true": True, "false": False, "null": None}


def read_pythonic(text: str) -> list[dict[str, Any]]:
    """The calls in a text of Python calls: one, several in a list or tuple, or one on each line.

    Arguments are keyword arguments with literal values: strings, finite numbers, lists, tuples, dicts with strings as
    keys, and ``True``, ``False`` and ``None``, for which JSON's words are taken too.

    Returns:
        ``{"name": …, "arguments": {…}}`` for each call. A dotted name is kept as it is.

    Raises:
        ValueError: the text is anything else.
    """
    try:
        calls = [call for statement in ast.parse(text.strip()).body for call in _calls_in(statement)]
        found = [_read_call(call) for call in calls]
    except (SyntaxError, RecursionError, MemoryError) as error:  # the last two: brackets nested too deeply
        raise ValueError(f"not Python calls: {error}: {text[:200]!r}") from error
    if not found:
        raise ValueError(f"no call in {text[:200]!r}")
    return found


def _calls_in(statement: ast.stmt) -> list[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError(f"not a call: {ast.unparse(statement)}")
    return statement.value.elts if isinstance(statement.value, (ast.List, ast.Tuple)) else [statement.value]


def _read_call(node: ast.expr) -> dict[str, Any]:
    if not isinstance(node, ast.Call):
        raise ValueError(f"not a call: {ast.unparse(node)}")
    name = _dotted_name(node.func)
    if node.args:
        raise ValueError(f"{name}: arguments must be named")
    arguments: dict[str, Any] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError(f"{name}: arguments must be named one by one, not unpacked")
        if keyword.arg in arguments:
            raise ValueError(f"{name}: {keyword.arg} is given twice")
        arguments[keyword.arg] = _read_value(keyword.value)
    return {"name": name, "arguments": arguments}


def _dotted_name(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted_name(node.value)}.{node.attr}"
    raise ValueError(f"not a function's name: {ast.unparse(node)}")


def _read_value(node: ast.expr) -> Any:
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_read_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_read_key(key): _read_value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Constant) and isinstance(node.value, (str, bool, type(None))):
        return node.value
    return _read_number(node)


def _read_key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"not a string: {'**' if node is None else ast.unparse(node)}")


def _read_number(node: ast.expr) -> int | float:
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        number = _read_number(node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    found = node.value if isinstance(node, ast.Constant) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found in (math.inf, -math.inf):
        raise ValueError(f"not a literal value: {ast.unparse(node)}")
    return found
