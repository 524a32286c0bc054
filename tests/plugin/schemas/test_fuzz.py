"""Random schemas: what is let through is what ``jsonschema`` calls valid, or else the schema is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations, product
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatplan.guided.backend import CannotEnforce

Judges = Callable[[Any], Callable[[Any], bool]]

NAMES = ("p", "q", "rp")
SCALARS = (None, True, False, 0, 1, 2, 5, -1, 0.5, 1.25, "", "a", "b", "ab", "abc")
TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
PATTERNS = ("^a", "b$", "^a|b", "^[ab]{2}$", "^p")
COUNT = st.integers(0, 3)
BOUND = st.sampled_from((-1, 0, 0.5, 1, 1.25, 2, 5))


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(NAMES), values, max_size=3)


def lists(values: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=most)


SCALAR = st.sampled_from(SCALARS)
INSTANCE = SCALAR | lists(SCALAR) | objects(SCALAR) | lists(lists(SCALAR, 2), 2) | objects(lists(SCALAR, 2))


def some_keywords(rules: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """An object of a few of these keywords, in any order."""
    chosen = st.lists(st.sampled_from(sorted(rules)), min_size=1, max_size=most, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: rules[name] for name in names}))


LEAF: dict[str, st.SearchStrategy[Any]] = {
    "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), min_size=1, max_size=3, unique=True),
    "const": SCALAR | lists(SCALAR, 2),
    "enum": st.lists(SCALAR, min_size=1, max_size=3),
    "pattern": st.sampled_from(PATTERNS),
    "multipleOf": st.sampled_from((1, 2, 0.5, 0.25)),
    "uniqueItems": st.booleans(),
    "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
    "dependentRequired": objects(st.lists(st.sampled_from(NAMES), max_size=2, unique=True)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), BOUND),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), COUNT),
}


def inner(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    some, any_number = st.lists(schemas, min_size=1, max_size=3), objects(schemas)
    one = "not if then else contains items additionalProperties propertyNames unevaluatedItems unevaluatedProperties"
    applying: dict[str, st.SearchStrategy[Any]] = {
        **dict.fromkeys(one.split(), schemas),
        **dict.fromkeys(("oneOf", "anyOf", "allOf", "prefixItems"), some),
        **dict.fromkeys(("properties", "dependentSchemas"), any_number),
        "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), schemas, max_size=2),
        "minContains": COUNT,
        "maxContains": COUNT,
        "$ref": st.just("#/$defs/x"),
    }
    typed = st.sampled_from(TYPES[2:]).map(lambda name: {"type": name})
    both = st.tuples(typed, some_keywords(LEAF, 2), some_keywords(applying, 3))
    return both.map(lambda parts: {**parts[1], **parts[0], **parts[2]}) | some_keywords(applying, 2)


LEAVES = some_keywords(LEAF, 3) | st.booleans()
SCHEMA = st.recursive(LEAVES, inner, max_leaves=6).filter(lambda schema: isinstance(schema, dict))
WHOLE = st.builds(lambda schema, target: {**schema, "$defs": {"x": target}}, SCHEMA, LEAVES)


def orders(value: Any) -> Iterator[Any]:
    """A value with its properties in all orders: the schema says in which one they are written."""
    if isinstance(value, list):
        yield from map(list, product(*(list(orders(item)) for item in value)))
    elif isinstance(value, dict):
        for names in permutations(value):
            for items in product(*(list(orders(value[name])) for name in names)):
                yield dict(zip(names, items, strict=True))
    else:
        yield value


def test_a_schema_is_enforced_or_refused(enforced: Judges, valid: Judges) -> None:
    count: Counter[str] = Counter()

    @settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(WHOLE, st.lists(INSTANCE, min_size=12, max_size=12))
    def check(schema: Any, instances: list[Any]) -> None:
        by_validator, tried = valid(schema), [*instances, *SCALARS, [], {}]
        said = {repr(instance): by_validator(instance) for instance in tried}
        by_tokens, wrong = compiled(schema)
        count["schemas"] += 1
        if by_tokens is None:
            assert not (wrong and any(said.values())), "only what nothing matches is wrong"
            return
        count["enforced"] += 1
        count.update("valid" if item else "invalid" for item in said.values())
        assert {repr(instance): any(map(by_tokens, orders(instance))) for instance in tried} == said

    def compiled(schema: Any) -> tuple[Callable[[Any], bool] | None, bool]:
        try:
            return enforced(schema), False
        except CannotEnforce as error:
            return None, error.wrong

    check()
    assert count["schemas"] >= 150
    assert 3 * count["enforced"] >= count["schemas"]
    assert min(count["valid"], count["invalid"]) >= 300
