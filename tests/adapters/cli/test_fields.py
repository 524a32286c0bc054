"""From what people type to the values of fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chatplan import Plugins, RequestError, hookimpl
from chatplan.adapters.cli.fields import Field, assignment, field_table
from chatplan.fields import GROUPS


@pytest.fixture(scope="module")
def table() -> Mapping[str, Field]:
    return field_table(Plugins())


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("temperature", "0.2", 0.2),
        ("temperature", "-1", -1),
        ("seed", "7", 7),
        ("logprobs", "true", True),
        ("user", "7", "7"),
        ("guided_regex", "[0-9]", "[0-9]"),
        ("stop", ".", "."),
        ("stop", "1", "1"),
        ("stop", '["a", "b"]', ["a", "b"]),
        ("guided_json", '{"type": "object"}', {"type": "object"}),
        ("guided_choice", '["yes"]', ["yes"]),
        ("tool_choice", "required", "required"),
        ("early_stopping", "never", "never"),
        ("early_stopping", "true", True),
        ("logit_bias", '{"3": -100}', {"3": -100}),
        ("user", "@@me", "@me"),
        ("user", "@", "@"),
        ("temperature", "3", 3),
        ("stop", "null", None),
    ],
)
def test_text_becomes_the_value_that_the_schema_allows(
    table: Mapping[str, Field], name: str, text: str, value: Any
) -> None:
    parsed = table[name].parse(text)
    assert (parsed, type(parsed)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("stop", ["."], "."),
        ("stop", [".", "!"], [".", "!"]),
        ("guided_choice", ["yes"], ["yes"]),
        ("guided_choice", ["yes", "no"], ["yes", "no"]),
        ("guided_choice", ['["yes", "no"]'], ["yes", "no"]),
        ("stop_token_ids", ["1", "2"], [1, 2]),
        ("stop_token_ids", ["1"], [1]),
        ("bad_words", ["a", '["b"]'], ["a", "b"]),
        ("guided_choice", ["1", "true", "null"], ["1", "true", "null"]),
        ("guided_choice", ['{"a": 1}'], ['{"a": 1}']),
        ("stop", ["null"], "null"),
    ],
)
def test_a_flag_that_is_repeated_is_a_list(table: Mapping[str, Field], name: str, texts: list[str], value: Any) -> None:
    assert table[name].parse_all(texts) == value


@pytest.mark.parametrize(("name", "text"), [("temperature", "warm"), ("tools", "x"), ("logprobs", "yes")])
def test_what_is_no_value_names_the_field(table: Mapping[str, Field], name: str, text: str) -> None:
    with pytest.raises(RequestError, match=f"{name}: should be"):
        table[name].parse(text)


def test_a_file_holds_a_value(table: Mapping[str, Field], tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "null"}', "utf-8")
    assert table["guided_json"].parse(f"@{tmp_path}/schema.json") == {"type": "null"}
    (tmp_path / "regex").write_text("[0-9]\n", "utf-8")
    assert table["guided_regex"].parse(f"@{tmp_path}/regex") == "[0-9]"
    with pytest.raises(RequestError, match="guided_json: .*none.json cannot be read"):
        table["guided_json"].parse(f"@{tmp_path}/none.json")


def test_assignments(table: Mapping[str, Field]) -> None:
    assert assignment(table, "top-p=0.5") == ("top_p", 0.5)
    assert assignment(table, "user=a=b") == ("user", "a=b")
    assert assignment(table, "unknown=[1]") == ("unknown", [1])
    with pytest.raises(RequestError, match="--set: is to be written as FIELD=VALUE"):
        assignment(table, "temperature")


def test_every_field_has_a_meaning_and_a_group(table: Mapping[str, Field]) -> None:
    assert [name for name, field in table.items() if not field.help or not field.group] == []
    assert "[default: 1]" in table["n"].help
    assert "(from 1 to 20)" in table["n"].help
    groups = [field.group for field in table.values()]
    assert [group for at, group in enumerate(groups) if not at or group != groups[at - 1]] == list(GROUPS)


def test_what_stands_for_a_value_in_the_help(table: Mapping[str, Field]) -> None:
    shown = {"temperature": "FLOAT", "n": "INTEGER", "user": "TEXT", "guided_json": "JSON", "stop": "JSON",
             "reasoning_effort": "|".join(table["reasoning_effort"].choices)}  # fmt: skip
    assert {name: table[name].metavar for name in shown} == shown
    assert "low" in table["reasoning_effort"].choices


def test_the_help_tells_limits_and_default() -> None:
    schema = {
        "description": "It.",
        "anyOf": [{"type": "number", "exclusiveMinimum": 0, "maximum": 2}, {"type": "null"}],
    }
    assert Field("x", {**schema, "default": False}, {}).help == "It. (above 0 to 2) [default: false]"
    other = {"type": "integer", "minimum": 1, "exclusiveMaximum": 9, "default": None}
    assert Field("x", other, {}).help == "(from 1 below 9)"


def test_the_fields_of_plugins_come_last() -> None:
    plugin = ModuleType("louder")
    vars(plugin)["request_fields"] = hookimpl(lambda: {"louder": bool}, specname="request_fields")
    last = list(field_table(Plugins([plugin])).values())[-1]
    assert (last.name, set(last.kinds), last.repeats) == ("louder", {"boolean"}, False)
