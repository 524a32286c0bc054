"""Tools, on a real model: what is enforced is what comes back, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from chatplan import Chat, ChatPipeline, RequestError, Settings
from chatplan.answering import can_parse
from chatplan.folding import fold

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "What is the weather in Rome?"}]
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
HERMES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}{% for t in tools or [] %}{{ t | tojson }}\n{% endfor %}<|im_start|>assistant\n"
)


def check(message: Any) -> list[str]:
    """The names of the calls, whose arguments must be what the functions take."""
    for call in message.tool_calls:
        schema = SCHEMAS[call.function.name]
        closed = CLOSED if schema is None else {**schema, "additionalProperties": False}
        jsonschema.validate(json.loads(call.function.arguments), closed)
    ids = [call.id for call in message.tool_calls]
    assert len(set(ids)) == len(ids)
    return [call.function.name for call in message.tool_calls]


def both(pipe: ChatPipeline | Chat, **fields: Any) -> Any:
    """The choice, which is the same when it is streamed."""
    chat = pipe if isinstance(pipe, Chat) else pipe.chat
    given = {"messages": ASK, "tools": TOOLS, "temperature": 0, "max_tokens": 90, **fields}
    choice = chat.complete(given).choices[0]
    streamed = fold(chat.stream(given)).choices[0]
    assert check(streamed.message) == check(choice.message)
    for one, other in zip(choice.message.tool_calls, streamed.message.tool_calls, strict=True):
        other.id = one.id
    assert streamed == choice
    return choice


def refused(pipe: ChatPipeline, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        pipe.chat.complete({"messages": ASK, "tools": TOOLS, "max_tokens": 1, **fields})
    return caught.value


@pytest.mark.skipif(can_parse(), reason="this transformers has the parser")
def test_tools_need_a_newer_transformers(pipe: ChatPipeline) -> None:
    for choice in ("auto", "required", NAMED):
        error = refused(pipe, tool_choice=choice)
        assert error.param == "tools"
        assert "transformers 5.23" in str(error)
    assert pipe(ASK, tools=TOOLS, tool_choice="none", max_tokens=1).choices[0].message.tool_calls == []


# --- what tool_choice says --------------------------------------------------------------------------------------------


@pytest.mark.dev_only
@pytest.mark.parametrize(("choice", "reason"), [("required", "tool_calls"), (NAMED, "stop")])
def test_calls_that_are_enforced(pipe: ChatPipeline, choice: Any, reason: str) -> None:
    answer = both(pipe, tool_choice=choice)
    assert (answer.message.content, answer.finish_reason) == (None, reason)
    assert len(answer.message.tool_calls) == 1
    if choice == NAMED:
        assert answer.message.tool_calls[0].function.name == "weather"


@pytest.mark.dev_only
def test_auto_lets_the_model_choose(pipe: ChatPipeline) -> None:
    answer = both(pipe, max_tokens=4)
    assert (answer.message.tool_calls, answer.finish_reason) == ([], "length")
    assert answer.message.content


@pytest.mark.dev_only
def test_none_drops_the_tools(pipe: ChatPipeline) -> None:
    plain = pipe.plan(ASK).prompt
    assert pipe.plan(ASK, tools=TOOLS, tool_choice="none").prompt == plain
    assert "find-place" in pipe.plan(ASK, tools=TOOLS).prompt.text
    for template in (None, HERMES):
        text = pipe.plan(ASK, tools=TOOLS, tool_choice="none", chat_template=template).prompt.text
        assert "find-place" not in text
    assert both(pipe, tool_choice="none", max_tokens=3).message.tool_calls == []


@pytest.mark.dev_only
def test_hot_answers_are_calls_all_the_same(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "temperature": 1.0, "max_tokens": 90}
    answers = pipe.chat.complete_batch([{"messages": ASK, "seed": seed, **fields} for seed in range(20)])
    for answer in answers:
        assert (len(check(answer.choices[0].message)), answer.choices[0].finish_reason) == (1, "tool_calls")
    assert len({answer.choices[0].message.tool_calls[0].function.name for answer in answers}) > 1


def forced(pipe: ChatPipeline, text: str, **fields: Any) -> Any:
    ids = pipe.chat.model.tokenizer.encode(text, add_special_tokens=False)
    given = {"tools": TOOLS, "force": ids, "max_tokens": len(ids) + 60, **fields}
    return pipe(ASK, **given).choices[0]


TWO = (
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>\n'
    '<tool_call>\n{"name": "find-place", "arguments": {"in": "x"}}\n</tool_call>'
)


@pytest.mark.dev_only
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_parallel_calls(pipe: ChatPipeline, choice: str) -> None:
    ids = pipe.chat.model.tokenizer.encode(TWO, add_special_tokens=False)
    many = forced(pipe, TWO, tool_choice=choice, parallel_tool_calls=True, force=[*ids, 2])
    assert check(many.message) == ["clock", "find-place"]
    one = forced(pipe, TWO, tool_choice=choice, parallel_tool_calls=False)
    assert (check(one.message), one.message.content, one.finish_reason) == (["clock"], None, "tool_calls")


@pytest.mark.dev_only
def test_functions_without_parameters_take_none(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"tools": [tool("clock")], "tool_choice": "required", "temperature": 1.5, "max_tokens": 60}
    for choice in pipe(ASK, n=5, seed=1, **fields).choices:
        assert json.loads(choice.message.tool_calls[0].function.arguments) == {}


# --- strict functions -------------------------------------------------------------------------------------------------


@pytest.mark.dev_only
def test_strict_functions_bind_once_a_call_has_begun(pipe: ChatPipeline) -> None:
    start = pipe.chat.model.tokenizer.encode("Ok. <tool_call>", add_special_tokens=False)
    fields: dict[str, Any] = {
        "tools": [tool(name, strict=True) for name in SCHEMAS],
        "temperature": 1.5,
        "force": start,
    }
    requests = [{"messages": ASK, "seed": seed, "max_tokens": 100, **fields} for seed in range(5)]
    for answer in pipe.chat.complete_batch(requests):
        choice = answer.choices[0]
        assert len(check(choice.message)) == 1
        assert (choice.message.content, choice.finish_reason) == ("Ok.", "tool_calls")


@pytest.mark.dev_only
def test_strict_functions_leave_text_alone(pipe: ChatPipeline) -> None:
    tools = [tool(name, strict=True) for name in SCHEMAS]
    plain = pipe(ASK, tools=[tool(name, strict=False) for name in SCHEMAS], temperature=0, max_tokens=8)
    assert pipe(ASK, tools=tools, temperature=0, max_tokens=8).text == plain.text


# --- beside other fields ----------------------------------------------------------------------------------------------

FORMAT = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"enum": [1, 2]}}}


@pytest.mark.dev_only
def test_an_answer_of_a_schema_or_a_call(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"response_format": FORMAT, "temperature": 1.5, "max_tokens": 90}
    plain = forced(pipe, "1", **fields)
    assert (plain.message.content, plain.message.tool_calls, plain.finish_reason) == ("1", [], "stop")
    called = forced(pipe, "<tool_call>", **fields)
    assert (len(check(called.message)), called.message.content, called.finish_reason) == (1, None, "tool_calls")
    for choice in pipe(ASK, tools=TOOLS, n=5, seed=1, **fields).choices:
        assert check(choice.message) or choice.message.content in ("1", "2")


GUIDES: list[tuple[dict[str, Any], str]] = [
    ({"guided_choice": ["a"]}, "guided_choice"),
    ({"guided_regex": "a"}, "guided_regex"),
    ({"guided_json": {}}, "guided_json"),
    ({"guided_grammar": 'start: "a"'}, "guided_grammar"),
    ({"response_format": FORMAT}, "response_format"),
    ({"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
]


@pytest.mark.dev_only
@pytest.mark.parametrize(("fields", "name"), GUIDES)
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_cannot_be_something_else_as_well(
    pipe: ChatPipeline, fields: dict[str, Any], name: str, choice: Any
) -> None:
    error = refused(pipe, tool_choice=choice, **fields)
    assert error.param == "tool_choice"
    assert name in error.message


@pytest.mark.dev_only
def test_what_is_refused(pipe: ChatPipeline) -> None:
    twice = refused(pipe, tools=[tool("clock"), tool("weather"), tool("clock")])
    assert (twice.param, "'clock'" in twice.message) == ("tools[2].function.name", True)
    own = refused(pipe, chat_template="{{ tools }}" + HERMES.replace("tool_call", "call_of"))
    assert own.param == "tools"
    assert "tool_call_parser" in own.message
    assert "tool_choice" in own.message
    assert refused(pipe, guided_grammar='start: "a"').param == "guided_grammar"
    assert refused(pipe, tool_choice="required", ignore_eos=True).param == "ignore_eos"


@pytest.mark.dev_only
def test_beam_search_calls_too(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "n": 2, "max_tokens": 60, "tools": [tool("clock"), TOOLS[1]]}
    answer = pipe(ASK, tool_choice="required", **fields)
    assert [len(check(choice.message)) for choice in answer.choices] == [1, 1]


# --- templates --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hermes(pipe: ChatPipeline) -> Chat:
    """The model, known to write calls as Hermes does."""
    model = pipe.chat.model
    assert model.module is not None
    about = type(model).of(model.module, model.tokenizer, Settings(tool_call_parser="hermes"), "smollm2")
    return Chat(about)


@pytest.mark.dev_only
def test_templates_that_know_tools(hermes: Chat) -> None:
    plan = hermes.plan(ASK, tools=TOOLS, chat_template=HERMES)
    assert json.dumps(TOOLS[2]) in plan.prompt.text
    assert "You can call these functions" not in plan.prompt.text
    answer = both(hermes, tool_choice="required", chat_template=HERMES)
    assert (len(answer.message.tool_calls), answer.finish_reason) == (1, "tool_calls")


@pytest.mark.dev_only
def test_templates_with_lists_of_parts(pipe: ChatPipeline) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    text = pipe.plan(ASK, tools=TOOLS, chat_template=template).prompt.text
    assert text.startswith("[system]You can call these functions")
    assert text.endswith("[user]What is the weather in Rome?")


@pytest.mark.dev_only
def test_what_was_called_is_told_again(pipe: ChatPipeline) -> None:
    first = both(pipe, tool_choice=NAMED).message
    call = first.tool_calls[0]
    history = [*ASK, first.to_dict(), {"role": "tool", "tool_call_id": call.id, "content": "22 °C"}]
    text = pipe.plan(history, tools=TOOLS).prompt.text
    arguments = json.dumps(json.loads(call.function.arguments))
    asked = f'<tool_call>\n{{"name": "weather", "arguments": {arguments}}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{asked}<|im_end|>" in text
    assert "<|im_start|>user\n<tool_response>\n22 °C\n</tool_response><|im_end|>" in text
    assert pipe(history, tools=TOOLS, max_tokens=3).choices[0].finish_reason == "length"


OPEN: dict[str, Any] = {"properties": {"a": {"type": "integer"}}, "required": ["a"]}


@pytest.mark.dev_only
def test_arguments_are_an_object_though_the_schema_does_not_say_so(pipe: ChatPipeline) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": OPEN}}]
    answer = pipe(ASK, tools=tools, tool_choice="required", temperature=2, seed=5, n=3, max_tokens=60)
    for choice in answer.choices:
        assert choice.message.tool_calls[0].function.arguments.startswith("{")


@pytest.mark.dev_only
@pytest.mark.parametrize(
    ("function", "place", "reason"),
    [
        ({"name": "f", "parameters": {"type": "string"}}, "parameters.type", "should be object"),
        ({"name": "f", "parameters": {"properties": {"a": {"type": "q"}}}}, "parameters", "at /properties/a/type"),
        ({"name": "a<|im_end|>b"}, "name", "special token"),
    ],
)
def test_functions_that_cannot_be_called(pipe: ChatPipeline, function: Any, place: str, reason: str) -> None:
    with pytest.raises(RequestError, match=reason) as caught:
        pipe.plan(ASK, tools=[{"type": "function", "function": function}], tool_choice="required")
    assert caught.value.param == f"tools[0].function.{place}"
