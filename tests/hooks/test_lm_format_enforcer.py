"""The backend `lm-format-enforcer`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chatplan import ModelInfo
from chatplan.guided import CannotEnforce, Constraint, Grammar, GrammarBackend, Matcher
from chatplan.guided.json_guard import GuardedJson
from chatplan.hooks import lm_format_enforcer
from chatplan.standin import stand_in

Accepts = Callable[[ModelInfo, Grammar, str], bool]
Allowed = Callable[[ModelInfo, Matcher], set[int]]

pytest.importorskip("lmformatenforcer")


@pytest.fixture(scope="module")
def model() -> ModelInfo:
    """Bytes for tokens."""
    return stand_in()


@pytest.fixture(scope="module")
def backend(model: ModelInfo) -> GrammarBackend:
    found = lm_format_enforcer.grammar_backend(model)
    assert found is not None
    return found


def refused(backend: GrammarBackend, constraint: Constraint) -> CannotEnforce:
    with pytest.raises(CannotEnforce) as caught:
        backend.compile(constraint)
    assert str(caught.value)
    return caught.value


# --- each kind --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "number"}, ["1", "-0.5", "10.25"], ["1.", "1.e5", "01", "-", "1e5", ".5"]),
        ({"type": "integer"}, ["0", "-7"], ["-0.5", "1e-5", "1.0"]),
        ({"type": "array", "items": {"type": "null"}}, ["[]", "[null, null]"], ["[null,]", "[,]", "[null"]),
        (
            {"type": "string"},
            ['"a\\n"', '" a  b"', '"\\u00e9"', '"\\ud7ff"'],
            ['"a\n"', '"a\tb"', '"\\x"', '"\\ud800"'],
        ),
        ({"enum": ["a  b", "null", ""]}, ['"a  b"', '""'], ['" a  b"', "null"]),
        (True, ["1", '{"a": [null]}'], ["", "{"]),
    ],
)
def test_schemas(
    model: ModelInfo, backend: GrammarBackend, accepts: Accepts, schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = backend.compile(Constraint.of("json", schema))
    assert all(accepts(model, grammar, text) for text in good)
    assert not any(accepts(model, grammar, text) for text in bad)


def test_long_arrays(model: ModelInfo, backend: GrammarBackend, accepts: Accepts) -> None:
    grammar = backend.compile(Constraint.of("json", {"type": "array", "items": {"type": "integer"}}))
    assert accepts(model, grammar, json.dumps(list(range(100))))


def test_a_dead_end_is_an_error_and_no_end_of_the_answer(
    model: ModelInfo, backend: GrammarBackend, allowed: Allowed, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = backend.compile(Constraint.of("json", {"type": "object"})).start()
    monkeypatch.setattr(GuardedJson, "get_allowed_characters", lambda self: "")
    with pytest.raises(ValueError, match="no way on"):
        allowed(model, matcher)


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint.of("choice", ["yes", "é"]),
        Constraint("regex", "a|é"),
        Constraint.of("json", {"enum": ["é"]}),
        Constraint.of("json", {"properties": {"é": {"type": "null"}}}),
    ],
)
def test_characters_of_several_tokens_are_refused(backend: GrammarBackend, constraint: Constraint) -> None:
    assert "cannot write" in refused(backend, constraint).reason


@pytest.mark.parametrize("kind", ["grammar", "structural_tag"])
def test_other_kinds_are_refused(backend: GrammarBackend, kind: Any) -> None:
    assert "takes" in refused(backend, Constraint(kind, "{}")).reason


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "integer", "minimum": 1}, "/minimum"),
        ({"type": "string", "maxLength": 1}, "/maxLength"),
        ({"type": "string", "pattern": "a"}, "/pattern"),
        ({"type": "string", "format": "date"}, "/format"),
        ({"type": "array", "prefixItems": [{}]}, "/prefixItems"),
        ({"type": "array", "minItems": 2}, ""),
        ({"type": "array", "maxItems": 0}, ""),
        ({"enum": [None]}, "/enum"),
        ({"enum": [True]}, "/enum"),
        ({"enum": ["a", 1]}, "/enum"),
        ({"enum": [1e30]}, "/enum"),
        ({"enum": ['a"b']}, "/enum"),
        ({"properties": {" a": {"type": "null"}}}, ""),
        ({"anyOf": [{"type": "string"}, {"type": ["string", "null"]}]}, "/anyOf"),
        (
            {
                "items": {"anyOf": [{"type": "array"}, {"$ref": "#/$defs/a"}]},
                "type": "array",
                "$defs": {"a": {"type": "array"}},
            },
            "/items/anyOf",
        ),
    ],
)
def test_keywords_it_does_not_enforce_are_refused(backend: GrammarBackend, schema: Any, place: str) -> None:
    assert refused(backend, Constraint.of("json", schema)).place == place


def test_other_whitespace_is_refused(backend: GrammarBackend) -> None:
    assert "blanks" in refused(backend, Constraint.of("json", {"type": "object"}, whitespace="[\n]+")).reason
