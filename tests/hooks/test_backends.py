"""What all backends that compile a core of JSON Schema have in common: each test runs with each of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import jsonschema
import pytest
import torch

from chatplan import ModelInfo, Settings
from chatplan.guided import CannotEnforce, Constraint, Grammar, GrammarBackend, Matcher
from chatplan.hooks import lm_format_enforcer, outlines, xgrammar
from chatplan.standin import stand_in

Accepts = Callable[[ModelInfo, Grammar, str], bool]
Allowed = Callable[[ModelInfo, Matcher], set[int]]
Writes = Callable[[ModelInfo, Grammar, int], str]

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "tags": {"type": "array", "items": {"enum": ["a b", "c"]}},
    },
    "required": ["name", "age"],
}
ARRAYS_AND_STRINGS: list[Any] = [
    {"type": "array", "items": {"type": "string", "minLength": 2, "maxLength": 5}, "minItems": 1, "maxItems": 3},
    {"type": "array", "prefixItems": [{"type": "boolean"}, {"enum": ["é1", 'q"', 1.5, None, {"a": []}]}]},
    {"type": "string", "pattern": "^[^a]{1,3}b$"},
]


@dataclass(frozen=True)
class Library:
    """A backend's module, the library that it needs, and what differs.

    Attributes:
        choices: texts that it can write.
        written: schemas of which it writes answers.
        huge: a regular expression that it compiles for longer than ``seconds``.
    """

    hook: ModuleType
    needs: str
    choices: list[str]
    written: list[Any]
    huge: str = "(a|b)*a(a|b){18}"
    seconds: float = 0.5

    def backend(self, model: ModelInfo) -> GrammarBackend:
        found = self.hook.grammar_backend(model)
        assert isinstance(found, GrammarBackend)
        return found


LIBRARIES = [
    Library(
        lm_format_enforcer,
        "lmformatenforcer",
        choices=["yes", "yes please", "\0", "\0a", 'a"\\\n', " b", ""],
        written=[
            PERSON,
            {"type": "object"},
            {"type": ["integer", "string", "null"]},
            {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3},
            {"type": "array", "items": {"anyOf": [{"enum": [1, 12, 2.5]}, {"enum": ["null", "a  b"]}]}},
            {"properties": {"a": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "b": {"type": "boolean"}},
             "type": "object", "required": ["a"]},
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ],
    ),
    Library(
        outlines,
        "outlines_core",
        choices=["yes", "yes please", "é☕", "a.*b", 'a"\\\n', " b", ""],
        written=[
            PERSON,
            *ARRAYS_AND_STRINGS,
            {"type": ["integer", "null", "number"]},
            {"properties": {'é"\\': {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}},
             "$defs": {"a": {"type": "boolean"}}},
            {"type": "object", "additionalProperties": {"type": "integer"}},
        ],
    ),
    Library(
        xgrammar,
        "xgrammar",
        choices=["yes", "yes please", "é☕", "\0", "\0a", 'a"\\\n', " b", ""],
        written=[
            PERSON,
            *ARRAYS_AND_STRINGS,
            {"type": "object"},
            {"type": ["integer", "null"], "minimum": -3, "exclusiveMaximum": 120},
            {"type": "number", "minimum": 0, "maximum": 1},
            {"properties": {"é1": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["é1"]},
        ],
        huge="".join(f"(((a{{1,300}}b?){{1,300}}c?){{1,300}}{x}?){{1,300}}" for x in "defghijklmnopqrstuvwxyz"),
        seconds=1,
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def model() -> ModelInfo:
    """Bytes for tokens."""
    return stand_in()


@pytest.fixture(scope="module", params=LIBRARIES, ids=lambda library: library.needs)
def library(request: pytest.FixtureRequest) -> Library:
    found: Library = request.param
    pytest.importorskip(found.needs)
    return found


@pytest.fixture(scope="module")
def backend(library: Library, model: ModelInfo) -> GrammarBackend:
    return library.backend(model)


def ids(model: ModelInfo, text: str) -> list[int]:
    return list(model.tokenizer(text, add_special_tokens=False)["input_ids"])


def refused(backend: GrammarBackend, constraint: Constraint) -> CannotEnforce:
    with pytest.raises(CannotEnforce) as caught:
        backend.compile(constraint)
    assert str(caught.value)
    return caught.value


# --- each kind --------------------------------------------------------------------------------------------------------


def test_schema(model: ModelInfo, backend: GrammarBackend, accepts: Accepts) -> None:
    grammar = backend.compile(Constraint.of("json", PERSON))
    for good in ('{"name":"a","age":-1}', '{"name": "a", "age": 10, "tags": ["a b", "c"]}'):
        assert accepts(model, grammar, good)
    bad = [
        '{"name":"a"}', '{"name":1,"age":1}', '{"name":"a","age":01}', '{"name":"a","age":1,}', '{"name":"a","age":1',
        '{"name":"a\nb","age":1}', '{"name":"a","age":1.5}', '{"name":"a","age":1,"x":1}', '{"name":"a","age":1} x',
        '{"name":"a","age":1,"tags":["b"]}', '{"name":"a",  "age":1}', '{"name":"a",\n"age":1}', "",
    ]  # fmt: skip
    for text in bad:
        assert not accepts(model, grammar, text)


def test_no_blanks_at_all(model: ModelInfo, backend: GrammarBackend, accepts: Accepts) -> None:
    grammar = backend.compile(Constraint.of("json", PERSON, whitespace=""))
    assert accepts(model, grammar, '{"name":"a b","age":1}')
    assert not accepts(model, grammar, '{"name": "a","age":1}')


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (r"^\d{3}-\d{4}$", ["123-4567"], ["123-456", "a", "\u0661\u0662\u0663-4567"]),
        ("yes|yes please", ["yes", "yes please"], ["y", "yes ", "no"]),
        (r"[^\s\d]+?", ["ab"], ["a b", "a1", ""]),
        ("a.", ["ab"], ["a", "a\n"]),
        ("(?P<word>x|y){2}", ["xy"], ["x", "xyx"]),
    ],
)
def test_expression(
    model: ModelInfo, backend: GrammarBackend, accepts: Accepts, pattern: str, good: list[str], bad: list[str]
) -> None:
    grammar = backend.compile(Constraint("regex", pattern))
    assert all(accepts(model, grammar, text) for text in good)
    assert not any(accepts(model, grammar, text) for text in bad)


def test_choice(model: ModelInfo, library: Library, backend: GrammarBackend, accepts: Accepts) -> None:
    texts = library.choices
    grammar = backend.compile(Constraint.of("choice", texts))
    assert all(accepts(model, grammar, text) for text in texts)
    assert not any(accepts(model, grammar, text) for text in ("y", "yes ", "no", "yes please yes"))


# --- refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "integer", "multipleOf": 2}, "/multipleOf"),
        ({"type": "array", "uniqueItems": True}, "/uniqueItems"),
        ({"type": "array", "items": {"type": "null"}, "contains": {}}, "/contains"),
        ({"type": "object", "minProperties": 1}, "/minProperties"),
        ({"type": "object", "patternProperties": {"a": {}}}, "/patternProperties"),
        ({"type": "object", "propertyNames": {}}, "/propertyNames"),
        ({"allOf": [{"type": "null"}, {"type": "null"}]}, "/allOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "/oneOf"),
        ({"not": {"type": "null"}}, "/not"),
        ({"type": "null", "if": {}, "then": {}}, "/if"),
        ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, "/required"),
    ],
)
def test_keywords_none_enforces_are_refused(backend: GrammarBackend, schema: Any, place: str) -> None:
    assert refused(backend, Constraint.of("json", schema)).place == place


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"type": "nonsense"}', "3", '{"$ref": "#"}', '{"type": "string", "pattern": "("}']
)
def test_malformed_schemas_are_refused(backend: GrammarBackend, text: str) -> None:
    refused(backend, Constraint("json", text))


@pytest.mark.parametrize("pattern", ["(", "(?=a)b", r"a\b", r"(a)\1", "(?i)a", "a^b"])
def test_expressions_it_gets_wrong_are_refused(backend: GrammarBackend, pattern: str) -> None:
    assert "regular expression" in refused(backend, Constraint("regex", pattern)).reason


# --- answers ----------------------------------------------------------------------------------------------------------


def test_whatever_is_written_matches(
    model: ModelInfo, library: Library, backend: GrammarBackend, writes: Writes
) -> None:
    for number, schema in enumerate(library.written):
        grammar = backend.compile(Constraint.of("json", schema))
        for seed in range(20):
            text = writes(model, grammar, 100 * number + seed)
            jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_the_answer_may_end_just_where_it_matches(model: ModelInfo, backend: GrammarBackend, allowed: Allowed) -> None:
    matcher = backend.compile(Constraint("regex", "ab?")).start()
    (end,) = model.eos_token_ids
    assert allowed(model, matcher) == {*ids(model, "a")}
    matcher.accept(*ids(model, "a"))
    assert allowed(model, matcher) == {end, *ids(model, "b")}
    matcher.accept(*ids(model, "b"))
    assert allowed(model, matcher) == {end}


def test_an_answer_may_end_with_any_of_several_tokens(library: Library, model: ModelInfo, allowed: Allowed) -> None:
    config: Any = SimpleNamespace(
        eos_token_id=[257, 256, 999], get_text_config=lambda: SimpleNamespace(vocab_size=model.logits_width)
    )
    several = replace(model, config=config)
    assert several.eos_token_ids == (257, 256, 999)
    matcher = library.backend(several).compile(Constraint.of("choice", ["a"])).start()
    assert allowed(several, matcher) == {*ids(model, "a")}
    matcher.accept(*ids(model, "a"))
    assert set(_bits(several, matcher)) == {256, 257}


def _bits(model: ModelInfo, matcher: Matcher) -> list[int]:
    mask = torch.zeros((model.logits_width + 31) // 32, dtype=torch.int32)
    matcher.fill(mask)
    return [at for at in range(32 * len(mask)) if int(mask[at // 32]) >> at % 32 & 1]


def test_a_backend_says_while_its_library_starts(backend: GrammarBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not backend.starting
    monkeypatch.setattr(vars(backend)["_worker"], "starting", True)
    assert backend.starting


def test_tokens_that_do_not_match_are_errors(model: ModelInfo, backend: GrammarBackend, allowed: Allowed) -> None:
    matcher = backend.compile(Constraint("regex", "ab?")).start()
    for token_id in (*ids(model, "b"), *model.tokenizer.all_special_ids, -1, 10_000):
        with pytest.raises(ValueError, match=str(token_id)):
            matcher.accept(token_id)
    assert allowed(model, matcher) == {*ids(model, "a")}


def test_copies_go_their_own_way(model: ModelInfo, backend: GrammarBackend, allowed: Allowed) -> None:
    first = backend.compile(Constraint.of("choice", ["abc", "abd", "xyz"])).start()
    first.accept(*ids(model, "a"))
    second = first.copy()
    first.accept(*ids(model, "b"))
    first.accept(*ids(model, "c"))
    assert allowed(model, second) == {*ids(model, "b")}
    second.accept(*ids(model, "b"))
    third = second.copy()
    third.accept(*ids(model, "d"))
    assert allowed(model, second) == {*ids(model, "cd")}
    assert allowed(model, first) == allowed(model, third) == {*model.eos_token_ids}


def test_threads_share_a_backend_and_a_grammar(model: ModelInfo, backend: GrammarBackend, accepts: Accepts) -> None:
    grammar = backend.compile(Constraint.of("json", PERSON))
    with ThreadPoolExecutor(6) as pool:
        shared = pool.map(lambda at: accepts(model, grammar, f'{"{"}"name":"n{at}","age":{at}{"}"}'), range(12))
        own = pool.map(lambda at: accepts(model, backend.compile(Constraint("regex", f"a{{{at}}}")), "aaa"), range(6))
        assert all(shared)
        assert list(own) == [at == 3 for at in range(6)]


def test_a_compile_is_stopped_at_its_limit_and_the_next_one_works(
    model: ModelInfo, library: Library, backend: GrammarBackend, accepts: Accepts, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.compile(Constraint("regex", "a"))  # so that the child runs already
    with monkeypatch.context() as patched:
        patched.setattr(backend, "model", replace(model, settings=Settings(guided_seconds=library.seconds)))
        error = refused(backend, Constraint("regex", library.huge))
    assert f"more than {library.seconds} s" in error.reason
    assert error.passing
    assert accepts(model, backend.compile(Constraint("regex", "ab")), "ab")


def test_sizes_are_known(backend: GrammarBackend) -> None:
    assert backend.compile(Constraint.of("json", PERSON)).size > 1000


# --- a real vocabulary ------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_real_tokens(library: Library, model_path: str, accepts: Accepts, writes: Writes) -> None:
    model = ModelInfo.without_weights(model_path)
    backend = library.backend(model)
    grammar = backend.compile(Constraint.of("json", PERSON))
    assert accepts(model, grammar, '{"name": "Ada Lovelace", "age": 36, "tags": ["a b"]}')
    assert accepts(model, grammar, '{"name":"Ada","age":36}')
    assert not accepts(model, grammar, '{"name": "Ada"}')
    assert not accepts(model, grammar, '{"name": "Ada", "age": "36"}')
    for seed in range(10):
        jsonschema.Draft202012Validator(PERSON).validate(json.loads(writes(model, grammar, seed)))
    grammar = backend.compile(Constraint.of("choice", ["yes", "yes please"]))
    assert accepts(model, grammar, "yes")
    assert accepts(model, grammar, "yes please")
    assert not accepts(model, grammar, "yes ")
