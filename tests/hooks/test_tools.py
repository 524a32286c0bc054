"""Tools: what is enforced is what comes back, whole and streamed, and what the plan keeps the model to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jsonschema
import pytest

from chatplan import Chat, Prompt, RequestError
from chatplan.answering import can_parse
from chatplan.families import built_in_formats
from chatplan.folding import fold
from chatplan.hooks import tools as hook
from chatplan.request import parse_request
from chatplan.standin import stand_in

ASK = [{"role": "user", "content": "Hi"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Bern"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
}
PLACE = {"type": "object", "properties": {"in": {"enum": ["x", "y"]}}, "required": ["in"]}
SCHEMAS: dict[str, Any] = {"weather": WEATHER, "find-place": PLACE, "clock": None}
CLOSED: dict[str, Any] = {"type": "object", "additionalProperties": False}


def tool(name: str, **more: Any) -> dict[str, Any]:
    schema = {} if SCHEMAS[name] is None else {"parameters": SCHEMAS[name]}
    return {"type": "function", "function": {"name": name, **schema, **more}}


TOOLS = [tool(name) for name in SCHEMAS]
NAMED = {"type": "function", "function": {"name": "weather"}}
PLAIN = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:"
HERMES = PLAIN + '{{ tools }}{# <tool_call> "arguments" </tool_call> #}'


def written(name: str, arguments: str = "{}") -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


CLOCK, FIND = written("clock"), written("find-place", '{"in": "x"}')
ROME = written("weather", '{"city": "Rome", "days": 3}')


@pytest.fixture(scope="module")
def chat(new_chat: Callable[..., Chat]) -> Chat:
    """A model whose template knows no tools."""
    tokenizer: Any = copy.deepcopy(stand_in().tokenizer)
    tokenizer.chat_template = PLAIN
    return new_chat(tokenizer=tokenizer)


def ids(chat: Chat, text: str) -> list[int]:
    return list(chat.model.tokenizer.encode(text, add_special_tokens=False))


def called(choice: Any) -> list[str]:
    """The names of the calls, whose arguments must be what the functions take."""
    for call in choice.message.tool_calls:
        schema = SCHEMAS[call.function.name]
        closed = CLOSED if schema is None else {**schema, "additionalProperties": False}
        jsonschema.validate(json.loads(call.function.arguments), closed)
    found = [call.id for call in choice.message.tool_calls]
    assert len({*found}) == len(found)
    return [call.function.name for call in choice.message.tool_calls]


def forced(chat: Chat, text: str, **fields: Any) -> Any:
    """The choice that begins with ``text`` as far as it is allowed; the same when it is streamed."""
    begin = ids(chat, text)
    given = {"messages": ASK, "tools": TOOLS, "temperature": 0, "force": begin or None, "max_tokens": len(begin) + 90}
    request = {**given, **fields}
    choice = chat.complete(request).choices[0]
    streamed = fold(chat.stream(request)).choices[0]
    assert called(streamed) == called(choice)
    for one, other in zip(choice.message.tool_calls, streamed.message.tool_calls, strict=True):
        other.id = one.id
    assert streamed == choice
    return choice


def refused(chat: Chat, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        chat.plan({"messages": ASK, "tools": TOOLS, **fields})
    return caught.value


@pytest.mark.skipif(can_parse(), reason="this transformers has the parser")
def test_tools_need_a_newer_transformers(chat: Chat) -> None:
    for choice in ("auto", "required", NAMED):
        error = refused(chat, tool_choice=choice)
        assert error.param == "tools"
        assert "transformers 5.23" in str(error)
    assert chat.complete(ASK, tools=TOOLS, tool_choice="none", max_tokens=1).choices[0].message.tool_calls == []


# --- what tool_choice says --------------------------------------------------------------------------------------------


@pytest.mark.dev_only
@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_calls_that_are_enforced(chat: Chat, choice: Any, reason: str) -> None:
    answer = forced(chat, "No, I will not.", tool_choice=choice)
    assert (answer.message.content, answer.finish_reason, len(called(answer))) == (None, reason, 1)


@pytest.mark.dev_only
def test_a_named_function_is_the_one_that_is_called(chat: Chat) -> None:
    """Whatever the model would rather call; and once, whatever ``parallel_tool_calls`` says."""
    for name, other in (("weather", CLOCK), ("clock", FIND), ("find-place", ROME)):
        choice = {"type": "function", "function": {"name": name}}
        fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "temperature": 0, "force": ids(chat, other)}
        answer = chat.complete(ASK, max_tokens=150, **fields).choices[0]
        assert (called(answer), answer.finish_reason) == ([name], "stop")
    twice = f"{CLOCK}\n{CLOCK}"
    fields = {"tool_choice": {"type": "function", "function": {"name": "clock"}}, "parallel_tool_calls": True}
    once = chat.complete(ASK, tools=TOOLS, temperature=0, force=ids(chat, twice), max_tokens=150, **fields)
    assert called(once.choices[0]) == ["clock"]


@pytest.mark.dev_only
def test_a_required_call_is_any_of_the_functions(chat: Chat) -> None:
    for text, name in ((CLOCK, "clock"), (ROME, "weather")):
        fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 0}
        answer = chat.complete(ASK, force=ids(chat, text), max_tokens=150, **fields)
        assert called(answer.choices[0]) == [name]


@pytest.mark.dev_only
def test_auto_lets_the_model_choose(chat: Chat) -> None:
    end = list(chat.model.eos_token_ids)
    plain = forced(chat, "", force=[*ids(chat, "Hello."), *end])
    assert (plain.message.content, called(plain), plain.finish_reason) == ("Hello.", [], "stop")
    answer = forced(chat, "", force=[*ids(chat, "Wait. " + CLOCK), *end])
    assert (answer.message.content, called(answer), answer.finish_reason) == ("Wait.", ["clock"], "tool_calls")


@pytest.mark.dev_only
def test_none_drops_the_tools(chat: Chat) -> None:
    assert chat.plan(ASK, tools=TOOLS, tool_choice="none").prompt == chat.plan(ASK).prompt
    assert "find-place" in chat.plan(ASK, tools=TOOLS).prompt.text
    text = chat.plan(ASK, tools=TOOLS, tool_choice="none", chat_template=HERMES).prompt.text
    assert "find-place" not in text
    answer = forced(chat, "", tool_choice="none", force=[*ids(chat, CLOCK), *chat.model.eos_token_ids])
    assert (called(answer), answer.message.content) == ([], CLOCK)


@pytest.mark.dev_only
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_parallel_calls(chat: Chat, choice: str) -> None:
    two = f"{CLOCK}\n{FIND}"
    end = list(chat.model.eos_token_ids)
    many = forced(chat, two, tool_choice=choice, parallel_tool_calls=True, force=[*ids(chat, two), *end])
    assert (called(many), many.finish_reason) == (["clock", "find-place"], "tool_calls")
    one = forced(chat, two, tool_choice=choice, parallel_tool_calls=False)
    assert (called(one), one.message.content, one.finish_reason) == (["clock"], None, "tool_calls")


@pytest.mark.dev_only
def test_functions_without_parameters_take_none(chat: Chat) -> None:
    text = written("clock", '{"a": 1}')
    answer = forced(chat, text, tool_choice="required")
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {}


@pytest.mark.dev_only
def test_hot_answers_are_calls_all_the_same(chat: Chat) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 1.0, "max_tokens": 200}
    answers = chat.complete_batch([{"messages": ASK, "seed": seed, **fields} for seed in range(6)])
    for answer in answers:
        assert (len(called(answer.choices[0])), answer.choices[0].finish_reason) == (1, "tool_calls")


# --- strict functions -------------------------------------------------------------------------------------------------


@pytest.mark.dev_only
def test_strict_functions_bind_once_a_call_has_begun(chat: Chat) -> None:
    wrong = written("weather", '{"city": "Oslo"}')
    strict = [tool("weather", strict=True), tool("clock")]
    answer = forced(chat, f"Ok. {wrong}", tools=strict)
    assert (answer.message.content, called(answer), answer.finish_reason) == ("Ok.", ["weather"], "tool_calls")
    end = list(chat.model.eos_token_ids)
    loose = chat.complete(ASK, tools=[tool("weather")], force=[*ids(chat, wrong), *end], temperature=0, max_tokens=90)
    assert json.loads(loose.choices[0].message.tool_calls[0].function.arguments) == {"city": "Oslo"}


@pytest.mark.dev_only
def test_beside_a_strict_function_others_take_what_they_are_given(chat: Chat) -> None:
    wrong = written("find-place", '{"in": "z", "on": 1}')
    tools = [tool("weather", strict=True), tool("find-place"), tool("clock", strict=False)]
    end = list(chat.model.eos_token_ids)
    answer = chat.complete(ASK, tools=tools, force=[*ids(chat, wrong), *end], temperature=0, max_tokens=120)
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) == {"in": "z", "on": 1}


@pytest.mark.dev_only
def test_strict_functions_leave_text_alone(chat: Chat) -> None:
    end = list(chat.model.eos_token_ids)
    text = "Hello {[ world."
    answer = forced(chat, "", tools=[tool("clock", strict=True)], force=[*ids(chat, text), *end])
    assert (answer.message.content, answer.finish_reason) == (text, "stop")


# --- what the plan says -----------------------------------------------------------------------------------------------


def wish(**fields: Any) -> Any:
    return parse_request({"messages": ASK, "tools": TOOLS, **fields})


def constraint(name: str = "hermes", **fields: Any) -> Any:
    about = replace(stand_in(), answer_format=built_in_formats()[name])
    return hook.constraint(wish(**fields), Prompt((1,), ""), about)


def tags(found: Any) -> dict[str, Any]:
    """The schema of the arguments of each function that may be called."""
    value = found.value
    listed = value["tags"] if "tags" in value else value["elements"][1]["tags"]
    return {json.dumps(tag["begin"]).split("name")[1].split('"')[2].rstrip("\\"): tag["content"]["json_schema"]
            for tag in listed}  # fmt: skip


ENFORCED: list[tuple[dict[str, Any], list[str], bool]] = [
    ({"tool_choice": "required"}, [*SCHEMAS], True),
    ({"tool_choice": "required", "parallel_tool_calls": True}, [*SCHEMAS], False),
    ({"tool_choice": NAMED}, ["weather"], True),
    ({"tool_choice": NAMED, "parallel_tool_calls": True}, ["weather"], True),
]


@pytest.mark.parametrize(("fields", "names", "once"), ENFORCED, ids=str)
def test_which_functions_are_enforced_and_how_often(fields: dict[str, Any], names: list[str], once: bool) -> None:
    found = constraint(**fields)
    assert (found.kind, found.param, found.alternative) == ("structural_tag", "tool_choice", False)
    calls = found.value["elements"][1]
    assert list(tags(found)) == names
    assert (calls["stop_after_first"], calls["at_least_one"]) == (once, True)


def test_text_around_enforced_calls_is_the_familys() -> None:
    syntax = built_in_formats()["jamba"].calls
    assert syntax is not None
    found = constraint("jamba", tool_choice="required").value
    assert [element["value"] for element in (found["elements"][0], found["elements"][2])] == [syntax.start, syntax.stop]
    assert found["elements"][1]["separator"] == syntax.separator
    assert {tag["end"] for tag in found["elements"][1]["tags"]} == {syntax.end}


def test_with_auto_only_strict_functions_are_kept_to_their_parameters() -> None:
    assert constraint() is None
    found = constraint(tools=[tool("weather", strict=True), tool("find-place"), tool("clock", strict=False)])
    assert (found.param, found.alternative, found.value["stop_after_first"]) == ("tools", True, True)
    schemas = tags(found)
    assert schemas["weather"]["required"] == ["city", "days"]
    assert "properties" not in schemas["find-place"]
    assert schemas["find-place"] == schemas["clock"]
    many = constraint(tools=[tool("weather", strict=True)], parallel_tool_calls=True)
    assert many.value["stop_after_first"] is False


def test_a_constraint_beside_auto_makes_calls_an_alternative() -> None:
    found = constraint(guided_regex="a")
    assert (found.param, found.alternative) == ("tools", True)
    assert list(tags(found)) == [*SCHEMAS]
    assert tags(found)["weather"]["required"] == ["city", "days"]


def test_calls_that_text_does_not_tell_cannot_be_strict() -> None:
    assert built_in_formats()["pythonic"].calls is None
    with pytest.raises(RequestError, match="cannot be told from text") as caught:
        constraint("pythonic", tools=[tool("clock"), tool("weather", strict=True)])
    assert caught.value.param == "tools[1].function.strict"
    assert constraint("pythonic") is None
    assert constraint("pythonic", tools=[tool("weather", strict=True)], tool_choice="none") is None
    assert constraint("pythonic", tools=[tool("weather", strict=True)], tool_choice="required") is not None


# --- beside other fields ----------------------------------------------------------------------------------------------

FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1, 2]}}}
GUIDES: list[tuple[dict[str, Any], str]] = [
    ({"guided_choice": ["a"]}, "guided_choice"),
    ({"guided_regex": "a"}, "guided_regex"),
    ({"guided_json": {}}, "guided_json"),
    ({"guided_grammar": 'start: "a"'}, "guided_grammar"),
    ({"response_format": FORMAT}, "response_format"),
    ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
]


@pytest.mark.dev_only
def test_an_answer_of_a_schema_or_a_call(chat: Chat) -> None:
    plain = forced(chat, "1", response_format=FORMAT)
    assert (plain.message.content, plain.message.tool_calls, plain.finish_reason) == ("1", [], "stop")
    answer = forced(chat, "<tool_call>", response_format=FORMAT)
    assert (len(called(answer)), answer.message.content, answer.finish_reason) == (1, None, "tool_calls")
    assert forced(chat, "No.", response_format=FORMAT).message.content in ("1", "2", None)


@pytest.mark.dev_only
@pytest.mark.parametrize(("fields", "name"), GUIDES)
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_cannot_be_something_else_as_well(chat: Chat, fields: dict[str, Any], name: str, choice: Any) -> None:
    error = refused(chat, tool_choice=choice, **fields)
    assert (error.param, name in error.message) == ("tool_choice", True)


@pytest.mark.dev_only
def test_what_is_refused(chat: Chat) -> None:
    twice = refused(chat, tools=[tool("clock"), tool("weather"), tool("clock")])
    assert (twice.param, "'clock'" in twice.message) == ("tools[2].function.name", True)
    own = refused(chat, chat_template="{{ tools }}" + PLAIN)
    assert own.param == "tools"
    assert "tool_call_parser" in own.message
    chat.plan(ASK, tools=TOOLS, tool_choice="required", chat_template="{{ tools }}" + PLAIN)
    assert refused(chat, guided_grammar='start: "a"').param == "guided_grammar"
    assert refused(chat, tool_choice="required", ignore_eos=True).param == "ignore_eos"


@pytest.mark.dev_only
@pytest.mark.parametrize(
    ("function", "place", "reason"),
    [
        ({"name": "f", "parameters": {"type": "string"}}, "parameters.type", "should be object"),
        ({"name": "f", "parameters": {"properties": {"a": {"type": "q"}}}}, "parameters", "at /properties/a/type"),
        ({"name": "a<|im_end|>b"}, "name", "special token"),
    ],
)
def test_functions_that_cannot_be_called(chat: Chat, function: Any, place: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        chat.plan(ASK, tools=[tool("clock"), {"type": "function", "function": function}], tool_choice="required")
    assert caught.value.param == f"tools[1].function.{place}"


OPEN: dict[str, Any] = {"properties": {"a": {"type": "integer", "minimum": 1, "maximum": 2}}, "required": ["a"]}


@pytest.mark.dev_only
def test_arguments_are_an_object_though_the_schema_does_not_say_so(chat: Chat) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": OPEN}}]
    begin = ids(chat, '<tool_call>\n{"name": "f", "arguments": [')
    answer = chat.complete(ASK, tools=tools, tool_choice="required", temperature=0, force=begin, max_tokens=120)
    assert json.loads(answer.choices[0].message.tool_calls[0].function.arguments) in ({"a": 1}, {"a": 2})


@pytest.mark.dev_only
def test_beam_search_calls_too(chat: Chat) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "n": 2, "max_tokens": 120, "tools": [tool("clock"), TOOLS[1]]}
    answer = chat.complete(ASK, tool_choice="required", **fields)
    assert [len(called(choice)) for choice in answer.choices] == [1, 1]


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.mark.dev_only
def test_templates_that_know_tools_get_them(new_chat: Callable[..., Chat]) -> None:
    tokenizer: Any = copy.deepcopy(stand_in().tokenizer)
    tokenizer.chat_template = HERMES
    text = new_chat(tokenizer=tokenizer).plan(ASK, tools=TOOLS).prompt.text
    assert text == f"user:Hi\nassistant:{TOOLS}"


@pytest.mark.dev_only
def test_what_was_called_is_told_again(chat: Chat) -> None:
    first = forced(chat, ROME, tool_choice=NAMED).message
    call = first.tool_calls[0]
    history = [*ASK, first.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "22 °C"}]
    text = chat.plan(history, tools=TOOLS).prompt.text
    assert f"assistant:{ROME}\n" in text
    assert "user:<tool_response>\n22 °C\n</tool_response>\n" in text
