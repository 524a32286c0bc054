"""The backend `outlines`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chatplan import ModelInfo
from chatplan.guided import CannotEnforce, Constraint, Grammar, GrammarBackend
from chatplan.hooks import outlines
from chatplan.standin import stand_in

Accepts = Callable[[ModelInfo, Grammar, str], bool]

pytest.importorskip("outlines_core")

PERSON = {"properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name", "age"]}


@pytest.fixture(scope="module")
def model() -> ModelInfo:
    """Bytes for tokens."""
    return stand_in()


@pytest.fixture(scope="module")
def backend(model: ModelInfo) -> GrammarBackend:
    found = outlines.grammar_backend(model)
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
        ({"type": "string", "pattern": "^(é|😀)a[ \\n\\r\\t]?$"}, ['"éa"', '"😀a "'], ['"ea"', '"éa\\n"']),
        ({"type": "string", "pattern": "a+"}, ['"a"', '"xay"'], ['"x"', '"a"a"']),
        ({"type": "string", "format": "date"}, ['"2024-02-29"'], ['"2023-02-29"', '""']),
        ({"type": "string", "minLength": 2}, ['"ab"', '"é☕"', '"\\n\\""'], ['"a"', '"a\t"', '"\\n"']),
        (
            {"type": "array", "prefixItems": [{"type": "null"}, {"const": 1}], "minItems": 2},
            ["[null, 1]"],
            ["[null]", "[1]"],
        ),
        ({"enum": ["éa", "😀a", 'q"\\', {"a": [1, "b"]}]}, ['"éa"', '"😀a"', '"q\\"\\\\"'], ['"é"', "1"]),
        ({"properties": {'q"': {"type": "null"}}}, ['{"q\\"": null}', "{}"], ['{"q"": null}']),
    ],
)
def test_schemas(
    model: ModelInfo, backend: GrammarBackend, accepts: Accepts, schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = backend.compile(Constraint.of("json", schema))
    assert all(accepts(model, grammar, text) for text in good)
    assert not any(accepts(model, grammar, text) for text in bad)


def test_whitespace_is_as_the_request_says(model: ModelInfo, backend: GrammarBackend, accepts: Accepts) -> None:
    grammar = backend.compile(Constraint.of("json", PERSON, whitespace=r"[\n\t ]*"))
    assert accepts(model, grammar, '{\n\t"name": "a",\n  "age": 1\n}')
    grammar = backend.compile(Constraint.of("json", {"type": "array", "items": {"type": "null"}}, whitespace=" |\n"))
    assert accepts(model, grammar, "[ null,\nnull ]")
    assert not accepts(model, grammar, "[null]")


@pytest.mark.parametrize("whitespace", ["x", "(", r"\S"])
def test_whitespace_that_is_no_whitespace_is_refused(backend: GrammarBackend, whitespace: str) -> None:
    refused(backend, Constraint.of("json", PERSON, whitespace=whitespace))


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grammar", "structural_tag"])
def test_other_kinds_are_refused(backend: GrammarBackend, kind: Any) -> None:
    assert "takes" in refused(backend, Constraint(kind, "{}")).reason


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "integer", "minimum": 1}, "/minimum"),
        ({"type": "number", "exclusiveMaximum": 1}, "/exclusiveMaximum"),
        ({"type": "string", "format": "hostname"}, "/format"),
        ({"type": "object"}, ""),
        ({"type": "array"}, ""),
        ({"properties": {"a": {}}}, "/properties/a"),
        ({"properties": {"a": {"$ref": "#"}}}, "/properties/a/$ref"),
    ],
)
def test_keywords_it_does_not_enforce_are_refused(backend: GrammarBackend, schema: Any, place: str) -> None:
    assert refused(backend, Constraint.of("json", schema)).place == place


def test_the_character_nul_is_refused(backend: GrammarBackend) -> None:
    refused(backend, Constraint.of("choice", ["a\0"]))
    refused(backend, Constraint("regex", "\0"))
