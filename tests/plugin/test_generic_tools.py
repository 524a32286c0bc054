"""Tools as text, for chat templates that know none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatplan.families import built_in_formats
from chatplan.generic_tools import as_plain_messages, is_about_calls, with_tool_prompt

WEATHER = {"type": "function", "function": {"name": "weather", "description": "In {city}: 5 °C", "parameters": {}}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
ASK = {"role": "user", "content": "Hi"}


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}


def written(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


# --- the prompt -------------------------------------------------------------------------------------------------------


def test_the_prompt_lists_each_tool_on_a_line() -> None:
    text = with_tool_prompt([ASK], [WEATHER, CLOCK])[0]["content"]
    listed = text.partition("<tools>\n")[2].partition("\n</tools>")[0].splitlines()
    assert [json.loads(line) for line in listed] == [WEATHER, CLOCK]
    assert "5 °C" in text  # not as \u00b0


def test_the_prompt_shows_a_call_as_it_is_read() -> None:
    syntax = built_in_formats()["generic"].calls
    assert syntax is not None
    text = with_tool_prompt([ASK], [CLOCK])[0]["content"]
    assert syntax.begin_of("the function's name") + '{"argument": "value"}' + syntax.end in text
    assert "{{" not in text


@pytest.mark.parametrize("first", ["user", "assistant", "developer"])
def test_a_system_message_is_put_in_front(first: str) -> None:
    messages = [{"role": first, "content": "Hi"}, ASK]
    found = with_tool_prompt(messages, [CLOCK])
    assert [message["role"] for message in found] == ["system", first, "user"]
    assert found[1:] == messages


def test_a_system_message_is_extended() -> None:
    messages = [{"role": "system", "content": "Be brief.", "name": "s"}, ASK]
    found = with_tool_prompt(messages, [CLOCK])
    assert (found[0]["name"], found[1:]) == ("s", [ASK])
    assert found[0]["content"].startswith("Be brief.\n\nYou can call these functions:")
    assert messages[0]["content"] == "Be brief."  # the caller's own is left alone


def test_a_conversation_of_nothing_has_a_prompt() -> None:
    assert [message["role"] for message in with_tool_prompt([], [CLOCK])] == ["system"]


def test_for_templates_without_system_messages_it_begins_the_first_message_of_the_user() -> None:
    reply = {"role": "assistant", "content": "Hello"}
    messages = [reply, ASK, reply, {**ASK, "content": "Again"}]
    found = with_tool_prompt(messages, [CLOCK], "user")
    assert [found[0], *found[2:]] == [reply, *messages[2:]]
    assert found[1]["role"] == "user"
    assert found[1]["content"].startswith("You can call these functions:")
    assert found[1]["content"].endswith("\n\nHi")
    assert messages[1] == ASK  # the caller's own is left alone


def test_without_a_message_of_the_user_it_is_one_of_its_own() -> None:
    system = {"role": "system", "content": "Be brief."}
    found = with_tool_prompt([system], [CLOCK], "user")
    assert ([message["role"] for message in found], found[1]) == (["user", "system"], system)


@pytest.mark.parametrize("role", ["system", "user"])
def test_without_tools_nothing_is_added(role: str) -> None:
    messages = [{"role": "system", "content": "Be brief."}, ASK]
    assert with_tool_prompt(messages, [], role) == messages


@pytest.mark.parametrize(
    ("message", "about"),
    [
        (ASK, False),
        ({"role": "assistant", "content": "Hi"}, False),
        ({"role": "assistant", "content": "", "tool_calls": []}, False),
        ({"role": "assistant", "content": "", "tool_calls": [call("f", {})]}, True),
        ({"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}}, True),
        ({"role": "tool", "tool_call_id": "c1", "content": "9"}, True),
        ({"role": "function", "name": "f", "content": "9"}, True),
    ],
)
def test_which_messages_are_about_calls(message: dict[str, Any], about: bool) -> None:
    assert is_about_calls(message) is about


# --- what happened before ---------------------------------------------------------------------------------------------

MESSAGES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("user", ASK, ASK),
    (
        "call",
        {"role": "assistant", "content": "", "tool_calls": [call("f", {"x": [1, None], "y": "ö"})]},
        {"role": "assistant", "content": written("f", '{"x": [1, null], "y": "ö"}')},
    ),
    (
        "text before",
        {"role": "assistant", "content": "Let me see.", "tool_calls": [call("f", {})]},
        {"role": "assistant", "content": "Let me see.\n" + written("f", "{}")},
    ),
    (
        "two calls",
        {"role": "assistant", "content": "", "tool_calls": [call("f", {}), call("g", {})]},
        {"role": "assistant", "content": written("f", "{}") + "\n" + written("g", "{}")},
    ),
    (
        "as a string",
        {"role": "assistant", "content": "", "tool_calls": [call("f", '{"x":1}')]},
        {"role": "assistant", "content": written("f", '{"x":1}')},
    ),
    (
        "deprecated",
        {"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "content": written("f", "{}")},
    ),
    (
        "custom",
        {"role": "assistant", "content": "", "tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]},
        {"role": "assistant", "content": written("f", '{"input": "x"}')},
    ),
    ("no calls", {"role": "assistant", "content": "Hi", "tool_calls": []}, {"role": "assistant", "content": "Hi"}),
    (
        "a name with quotes",
        {"role": "assistant", "content": "", "tool_calls": [call('a"b', {})]},
        {"role": "assistant", "content": written('a\\"b', "{}")},
    ),
    (
        "result",
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
        {"role": "user", "content": "<tool_response>\n9\n</tool_response>"},
    ),
    (
        "deprecated result",
        {"role": "function", "name": "f", "content": "9"},
        {"role": "user", "content": "<tool_response>\n9\n</tool_response>"},
    ),
]


@pytest.mark.parametrize(("message", "plain"), [row[1:] for row in MESSAGES], ids=[row[0] for row in MESSAGES])
def test_messages_as_text(message: dict[str, Any], plain: dict[str, Any]) -> None:
    before = json.dumps(message)
    assert as_plain_messages([message]) == [plain]
    assert json.dumps(message) == before


def result(text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": text, "content": text}


def test_results_in_a_row_are_one_turn() -> None:
    """Templates expect the roles to take turns."""
    messages = [ASK, result("1"), result("2"), ASK, result("3"), {"role": "assistant", "content": "Ok"}, result("4")]
    found = as_plain_messages(messages)
    one = "<tool_response>\n{}\n</tool_response>"
    assert [message["content"] for message in found] == [
        "Hi",
        one.format(1) + "\n" + one.format(2),
        "Hi",
        one.format(3),
        "Ok",
        one.format(4),
    ]
    assert all(message.keys() == {"role", "content"} for message in found)


def test_other_keys_are_kept() -> None:
    assert as_plain_messages([{**ASK, "name": "Ann"}]) == [{**ASK, "name": "Ann"}]
