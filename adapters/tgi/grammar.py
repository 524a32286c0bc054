"""Constraints as TGI takes them: a JSON schema with properties, or a regular expression."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

from chatplan.errors import RequestError, UnsupportedFieldError
from chatplan.guided.backend import CannotEnforce
from chatplan.guided.constraint import Constraint
from chatplan.guided.keywords import honoured
from chatplan.guided.tags import as_format
from chatplan.guided.values import json_value
from chatplan.hooks.outlines import HONOURS, escaped

__all__ = ["grammar_of"]

_BLANKS = "[ ]?"  # between the tokens of JSON, unless a constraint says otherwise
# Of no effect on what is enforced: TGI's library allows named properties only.
_SILENT = ("title", "description", "default", "examples", "$schema", "additionalProperties")


def grammar_of(constraint: Constraint) -> dict[str, Any]:
    """The ``grammar`` of TGI's parameters.

    Raises:
        RequestError: TGI cannot enforce all of it.
    """
    if constraint.thinking:
        reason = (
            "the model reasons before it answers, and a TGI server enforces from the first token; switch reasoning off"
        )
        raise UnsupportedFieldError(constraint.param, reason)
    try:
        return _grammar(constraint)
    except CannotEnforce as error:
        raise RequestError(f"a TGI server cannot enforce it: {error}", param=constraint.param) from error


def _grammar(constraint: Constraint) -> dict[str, Any]:
    if constraint.whitespace != _BLANKS:
        raise CannotEnforce("a TGI server has blanks of its own")
    if constraint.kind == "json":
        return _json(constraint)
    if constraint.kind == "structural_tag":
        return {"type": "regex", "value": _of_tag(as_format(constraint.value))}
    if constraint.kind == "grammar":
        raise CannotEnforce("it takes JSON schemas and regular expressions only")
    choices = constraint.value if constraint.kind == "choice" else []
    return {"type": "regex", "value": "|".join(map(re.escape, choices)) if choices else constraint.text}


def _json(constraint: Constraint) -> dict[str, Any]:
    given = json_value(constraint)
    schema = escaped(honoured(given, HONOURS))
    if schema.get("type") == "object" and schema.get("properties"):
        # As text, since Python takes 1.0 for 1, and the server's library does not.
        plain = json.dumps(_bare(given), sort_keys=True) == json.dumps(schema, sort_keys=True)
        return {"type": "json", "value": given if plain else schema}
    return {"type": "regex", "value": _expression(schema)}


def _bare(node: Any) -> Any:
    """A schema without what says nothing."""
    if isinstance(node, list):
        return [_bare(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    bare = {key: _bare(value) for key, value in node.items() if key not in _SILENT}
    if isinstance(node.get("properties"), Mapping):  # whose names may be those words
        bare["properties"] = {name: _bare(part) for name, part in node["properties"].items()}
    return bare


def _expression(schema: Any) -> str:
    """A regular expression for values that TGI takes no schema for, by the library that it has for that itself."""
    if not find_spec("outlines_core"):
        raise CannotEnforce(
            "its schemas are objects with properties; for others `pip install chatplan[outlines]` makes expressions"
        )
    from outlines_core.json_schema import build_regex_from_schema  # type: ignore[import-untyped,unused-ignore]

    return str(build_regex_from_schema(json.dumps(schema, ensure_ascii=False)))


def _of_tag(node: Any) -> str:
    """A regular expression for calls of tools, as the plugin ``tools`` and structural tags describe them."""
    kind = node.get("type") if isinstance(node, Mapping) else None
    if kind == "sequence":
        return "".join(map(_of_tag, node["elements"]))
    if kind == "or":
        return f"(?:{'|'.join(map(_of_tag, node['elements']))})"
    if kind == "const_string":
        return str(re.escape(node["value"]))
    if kind == "regex":
        return f"(?:{node['pattern']})"
    if kind == "json_schema":
        return f"(?:{_expression(escaped(honoured(node['json_schema'], HONOURS)))})"
    if kind == "tag":
        return f"{re.escape(node['begin'])}{_of_tag(node['content'])}{re.escape(node['end'])}"
    if kind == "tags_with_separator":
        return _separated(node)
    raise CannotEnforce(f"a part of the type {kind} makes no regular expression")


def _separated(node: Mapping[str, Any]) -> str:
    one = f"(?:{'|'.join(map(_of_tag, node['tags']))})"
    if node.get("stop_after_first"):
        return one if node.get("at_least_one") else f"{one}?"
    many = f"{one}(?:{re.escape(node['separator'])}{one})*"
    return many if node.get("at_least_one") else f"(?:{many})?"
