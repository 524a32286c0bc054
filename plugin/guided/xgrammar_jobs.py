"""What the library ``xgrammar`` gets for a constraint: only what it is known to enforce.

In structural tags, special tokens take no part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.constraint import Constraint
from chatplan.guided.honours import Honours, Schema
from chatplan.guided.keywords import honoured
from chatplan.guided.patterns import portable
from chatplan.guided.values import choices, json_value

__all__ = ["HONOURS", "xgrammar_job"]

_BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


def _refuse(schema: Schema) -> str:
    if any(schema.get(bound, 0) % 1 for bound in _BOUNDS):
        return "it gets bounds wrong that are no whole numbers"
    return ""


HONOURS = Honours(
    "xgrammar",
    {
        "string": ("minLength", "maxLength", "pattern", "format"),
        "integer": _BOUNDS,
        "number": _BOUNDS,
        "array": ("items", "prefixItems", "minItems", "maxItems"),
        "object": ("properties", "required", "additionalProperties"),
    },
    refuse=_refuse,
    lengths=False,  # it lets control characters into strings of some lengths
)
_EBNF_RULE = re.compile(r"^\s*[A-Za-z_][\w.-]*\s*::=", re.MULTILINE)


def xgrammar_job(constraint: Constraint) -> tuple[str, str]:
    """What is to be made of which text: ``spaced`` or ``compact`` of a schema, or what the library compiles.

    Raises:
        CannotEnforce: for the first part that the library would ignore or get wrong, with its place.
    """
    return _JOBS[constraint.kind](constraint)


def _schema(constraint: Constraint) -> tuple[str, str]:
    if constraint.whitespace not in ("", "[ ]?"):
        raise CannotEnforce(
            f"xgrammar knows blanks of '' and '[ ]?' between JSON tokens, not {constraint.whitespace!r}"
        )
    schema = json.dumps(honoured(json_value(constraint), HONOURS), ensure_ascii=False)
    return ("spaced" if constraint.whitespace else "compact"), schema


def _regex(constraint: Constraint) -> tuple[str, str]:
    return "regex", portable(constraint.text)


def _choice(constraint: Constraint) -> tuple[str, str]:
    return "grammar", "root ::= " + " | ".join(map(_literal, choices(constraint)))


def _literal(text: str) -> str:
    plain = (f"\\u{ord(c):04x}" if c < " " or c in '"\\' else c for c in text)
    return '"' + "".join(plain) + '"'


def _ebnf(constraint: Constraint) -> tuple[str, str]:
    return "grammar", _is_ebnf(constraint.text, "")


def _is_ebnf(text: Any, place: str) -> str:
    if not isinstance(text, str) or not _EBNF_RULE.search(text):
        raise CannotEnforce("xgrammar reads EBNF, rules with '::='; the backend 'guidance' reads Lark", place)
    return text


def _structural_tag(constraint: Constraint) -> tuple[str, str]:
    if constraint.whitespace != "[ ]?":
        raise CannotEnforce("a structural tag says itself where there may be whitespace")
    value = json_value(constraint)
    if isinstance(value, dict) and "structures" in value:
        form = _legacy(value)
    elif isinstance(value, dict) and value.get("type") == "structural_tag" and value.keys() <= {"type", "format"}:
        form = _read(value.get("format"), "/format")
    else:
        form = _read(value, "")
    return "structural_tag", json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False)


_Reader = Callable[[Any, str], Any]


def _read(node: Any, place: str) -> dict[str, Any]:
    """One format of a structural tag: only fields that are known to be enforced, and schemas made safe."""
    kind = node.get("type") if isinstance(node, dict) else None
    fields = _FORMATS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise CannotEnforce(f"xgrammar is not known to enforce structural tags of type {kind!r:.80}", place)
    for key in node:
        if key != "type" and key not in fields:
            raise CannotEnforce(f"xgrammar is not known to enforce {key!r} of {kind!r}", f"{place}/{key}")
    whitespace = {"max_whitespace_cnt": 1} if kind == "json_schema" else {}
    return {"type": kind, **whitespace, **{k: fields[k](v, f"{place}/{k}") for k, v in node.items() if k != "type"}}


def _legacy(value: dict[str, Any]) -> dict[str, Any]:
    """The older form, of ``structures`` with ``begin``, ``schema`` and ``end``, and ``triggers``."""
    tags = []
    for at, part in enumerate(_list(value["structures"], "/structures")):
        place = f"/structures/{at}"
        if not isinstance(part, dict) or part.keys() != {"begin", "schema", "end"}:
            raise CannotEnforce("a structure has 'begin', 'schema' and 'end'", place, wrong=True)
        schema = part["schema"]
        if isinstance(schema, str):
            schema = json_value(Constraint("json", schema))
        content = {
            "type": "json_schema",
            "max_whitespace_cnt": 1,
            "json_schema": _inner_schema(schema, f"{place}/schema"),
        }
        begin, end = _text(part["begin"], f"{place}/begin"), _text(part["end"], f"{place}/end")
        tags.append({"type": "tag", "begin": begin, "content": content, "end": end})
    if not value.keys() <= {"type", "structures", "triggers"}:
        raise CannotEnforce("only 'structures' and 'triggers' are enforced here", wrong=True)
    return {"type": "triggered_tags", "triggers": _text(value.get("triggers"), "/triggers"), "tags": tags}


def _text(value: Any, place: str) -> Any:
    """A text or several; no token, since the library lets no special one through."""
    if not isinstance(value, str) and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        raise CannotEnforce("xgrammar takes texts here", place)
    return value


def _plain(value: Any, place: str) -> Any:
    """A number or truth value; whether it is the right one, the library says."""
    return value


def _list(value: Any, place: str) -> list[Any]:
    if not isinstance(value, list):
        raise CannotEnforce("this must be a list", place, wrong=True)
    return value


def _inner(value: Any, place: str) -> Any:
    return _read(value, place)


def _inners(value: Any, place: str) -> Any:
    return [_read(part, f"{place}/{at}") for at, part in enumerate(_list(value, place))]


def _inner_schema(value: Any, place: str) -> Any:
    return honoured(value, HONOURS, place)


def _pattern(value: Any, place: str) -> Any:
    try:
        return portable(str(value))
    except CannotEnforce as error:
        raise CannotEnforce(error.reason, place) from None


_FORMATS: Mapping[str, Mapping[str, _Reader]] = {
    "const_string": {"value": _text},
    "json_schema": {"json_schema": _inner_schema, "max_whitespace_cnt": _plain},
    "regex": {"pattern": _pattern},
    "grammar": {"grammar": _is_ebnf},
    "any_text": {"excludes": _text},
    "sequence": {"elements": _inners},
    "or": {"elements": _inners},
    "optional": {"content": _inner},
    "plus": {"content": _inner},
    "star": {"content": _inner},
    "repeat": {"content": _inner, "min": _plain, "max": _plain},
    "tag": {"begin": _text, "content": _inner, "end": _text},
    "tags_with_separator": {"tags": _inners, "separator": _text, "at_least_one": _plain, "stop_after_first": _plain},
    "triggered_tags": {
        "triggers": _text, "tags": _inners, "at_least_one": _plain, "stop_after_first": _plain, "excludes": _text,
    },
}  # fmt: skip
_JOBS: Mapping[str, Callable[[Constraint], tuple[str, str]]] = {
    "json": _schema, "regex": _regex, "choice": _choice, "grammar": _ebnf, "structural_tag": _structural_tag,
}  # fmt: skip
