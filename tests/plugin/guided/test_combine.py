"""One constraint out of several plugins' answers."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan.errors import RequestError
from chatplan.guided.combine import one_constraint
from chatplan.guided.constraint import Constraint

CALLS = {"type": "tag", "begin": "<call>", "content": {"type": "json_schema", "json_schema": {}}, "end": "</call>"}
TOOLS = Constraint.of("structural_tag", {"type": "structural_tag", "format": CALLS}, alternative=True, param="tools")
SCHEMA = {"type": "integer"}
WORD = {"type": "const_string", "value": "a"}
STRUCTURES = {"structures": [{"begin": "<a>", "schema": SCHEMA, "end": "</a>"}], "triggers": ["<a"]}
STRUCTURED = {
    "type": "triggered_tags",
    "triggers": ["<a"],
    "tags": [{"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": SCHEMA}, "end": "</a>"}],
}

JOINED: list[tuple[Constraint, Any]] = [
    (Constraint.of("json", SCHEMA), {"type": "json_schema", "json_schema": SCHEMA}),
    (Constraint.of("json", True), {"type": "json_schema", "json_schema": True}),
    (Constraint("regex", "a/b"), {"type": "regex", "pattern": "a/b"}),
    (
        Constraint.of("choice", ["a", "b"]),
        {"type": "or", "elements": [WORD, {"type": "const_string", "value": "b"}]},
    ),
    (Constraint.of("structural_tag", WORD), WORD),
    (Constraint.of("structural_tag", {"type": "structural_tag", "format": WORD}), WORD),
    (Constraint.of("structural_tag", STRUCTURES), STRUCTURED),
]


@pytest.mark.parametrize(("constraint", "form"), JOINED, ids=lambda value: str(value)[:40])
def test_calls_are_an_alternative_to_every_kind_of_answer(constraint: Constraint, form: Any) -> None:
    plugin, joined = one_constraint([("tools", TOOLS), ("guided", constraint)])
    assert (plugin, joined.kind) == ("guided", "structural_tag")
    assert joined.value == {"type": "or", "elements": [CALLS, form]}
    assert not joined.alternative


def test_what_surrounds_the_answer_is_kept() -> None:
    own = Constraint("regex", "a", whitespace="", before="<t>", after="</t>", thinking=True, param="guided_regex")
    joined = one_constraint([("guided", own), ("tools", TOOLS)])[1]
    assert (joined.whitespace, joined.before, joined.after, joined.thinking) == ("", "<t>", "</t>", True)
    assert joined.param == "guided_regex"


def test_a_grammar_cannot_be_joined() -> None:
    own = Constraint("grammar", "start: x", param="guided_grammar")
    with pytest.raises(RequestError, match="a grammar cannot be joined with calls") as caught:
        one_constraint([("guided", own), ("tools", TOOLS)])
    assert caught.value.param == "guided_grammar"


@pytest.mark.parametrize("alone", [TOOLS, Constraint("regex", "a"), Constraint("grammar", "start: x")])
def test_one_alone_stays_as_it_is(alone: Constraint) -> None:
    assert one_constraint([("p", alone)]) == ("p", alone)


def test_two_that_must_hold_are_refused() -> None:
    first, second = Constraint("regex", "a", param="guided_regex"), Constraint("regex", "b", param="tool_choice")
    with pytest.raises(RequestError, match="only one constraint .* got guided_regex, tool_choice") as caught:
        one_constraint([("a", first), ("t", TOOLS), ("b", second)])
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("tag", [3, {"type": "structural_tag"}, {"structures": [{"begin": "<a>"}], "triggers": ["<a"]}])
def test_a_malformed_tag_is_an_error_of_its_field(tag: Any) -> None:
    own = Constraint.of("structural_tag", tag, param="response_format")
    with pytest.raises(RequestError, match="a struct") as caught:
        one_constraint([("guided", own), ("tools", TOOLS)])
    assert caught.value.param == "response_format"
