"""From messages to the prompt: everything that steers the chat template."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from chatplan import Chat, RequestError
from chatplan.standin import stand_in

ASK = [{"role": "user", "content": "Hi"}]
USER = "<|im_start|>user\nHi<|im_end|>\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PRINTS = "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}"
LOOPS = "{% for m in messages %}{% for part in m.content %}<{{ part.type }}:{{ part.text }}>{% endfor %}{% endfor %}"
READS_DOCUMENTS = "{% for d in documents %}{{ d.title }}={{ d.text }};{% endfor %}" + PRINTS


def byte_tokenizer() -> Any:
    """A byte tokenizer of its own, which may be changed."""
    return copy.deepcopy(stand_in().tokenizer)


@pytest.fixture(scope="module")
def chat(new_chat: Callable[..., Chat]) -> Chat:
    """A model whose template knows neither tools nor documents."""
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = CHATML
    return new_chat(tokenizer=tokenizer)


def prompt(chat: Chat, messages: Any = ASK, **fields: Any) -> str:
    """The rendered text, which must also be what the model reads."""
    plan = chat.plan(messages, **fields)
    if not fields.get("add_special_tokens"):
        ids = chat.model.tokenizer.encode(plan.prompt.text, add_special_tokens=False)
        assert list(plan.prompt.token_ids) == ids
    return plan.prompt.text


def refused(chat: Chat, messages: Any = ASK, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        chat.complete(messages, max_tokens=1, **fields)
    return caught.value


def test_the_models_template(chat: Chat) -> None:
    assert prompt(chat) == f"{USER}<|im_start|>assistant\n"
    assert prompt(chat, add_generation_prompt=False) == f"{USER}"


def test_without_a_generation_prompt_the_role_is_the_last_messages(chat: Chat) -> None:
    answer = chat.complete(ASK, add_generation_prompt=False, max_tokens=1)
    assert answer.choices[0].message.role == "user"
    assert chat.complete(ASK, max_tokens=1).choices[0].message.role == "assistant"


PREFILL = [*ASK, {"role": "assistant", "content": "The colour of the sky is"}]
CONTINUE: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


def test_continue_final_message(chat: Chat) -> None:
    assert prompt(chat, PREFILL, **CONTINUE) == f"{USER}<|im_start|>assistant\nThe colour of the sky is"
    answer = chat.complete(PREFILL, temperature=0, max_tokens=4, **CONTINUE)
    assert answer.choices[0].message.role == "assistant"


def test_echo(chat: Chat) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 4, **CONTINUE}
    plain, echoed = chat.complete(PREFILL, **fields), chat.complete(PREFILL, echo=True, **fields)
    assert echoed.text == "The colour of the sky is" + plain.text
    assert echoed.usage == plain.usage
    deltas = [chunk.choices[0].delta.content for chunk in chat.stream(PREFILL, echo=True, **fields)]
    assert deltas[:2] == ["", "The colour of the sky is"]
    assert "".join(delta or "" for delta in deltas) == echoed.text
    for more, shown in (({}, ""), ({"add_generation_prompt": False}, "Hi")):  # the last message is the user's
        assert chat.plan(ASK, echo=True, **more).prompt.echo == shown
        assert chat.plan(ASK, **more).prompt.echo == ""
    parts = [{"role": "user", "content": ["one", {"type": "text", "text": "two"}]}]
    assert chat.plan(parts, echo=True, add_generation_prompt=False).prompt.echo == "one\ntwo"


def test_both_kinds_of_turn_are_refused(chat: Chat) -> None:
    assert refused(chat, PREFILL, continue_final_message=True).param == "continue_final_message"


def test_own_template(chat: Chat) -> None:
    assert prompt(chat, chat_template=PRINTS) == "[user|Hi]"
    assert len(chat.plan(ASK, chat_template=PRINTS).prompt.token_ids) == len("[user|Hi]")


def test_own_template_that_fails(chat: Chat) -> None:
    for template in ("{% for", "{{ raise_exception('no good') }}", "{{ 1 / 0 }}"):
        error = refused(chat, chat_template=template)
        assert error.param == "chat_template"
        assert "template" in str(error)
    assert "no good" in str(refused(chat, chat_template="{{ raise_exception('no good') }}"))


def test_template_kwargs(chat: Chat) -> None:
    template = "{{ mood|default('none') }} {{ add_generation_prompt }}" + PRINTS
    assert prompt(chat, chat_template=template) == "none True[user|Hi]"
    kwargs = {"mood": "calm", "add_generation_prompt": False}
    assert prompt(chat, chat_template=template, chat_template_kwargs=kwargs) == "calm False[user|Hi]"


def test_documents(chat: Chat) -> None:
    documents = [{"title": "Tides", "text": "The moon pulls."}]
    assert prompt(chat, documents=documents, chat_template=READS_DOCUMENTS) == "Tides=The moon pulls.;[user|Hi]"
    assert refused(chat, documents=documents).param == "documents"


def test_a_template_of_the_model_that_fails_is_about_the_messages(new_chat: Callable[..., Chat]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% if messages[0].role == 'user' %}{{ raise_exception('no users') }}{% endif %}"
    error = refused(new_chat(tokenizer=tokenizer))
    assert (error.param, "no users" in error.message) == ("messages", True)


@pytest.mark.parametrize("name", ["tokenize", "return_dict", "conversation", "chat_template", "max_length"])
def test_variables_are_not_the_renderers_own_arguments(chat: Chat, name: str) -> None:
    error = refused(chat, chat_template_kwargs={"mood": "calm", name: True})
    assert error.param == f"chat_template_kwargs.{name}"


def test_a_conversation_of_nothing_is_refused(chat: Chat) -> None:
    error = refused(chat, chat_template="{# nothing #}")
    assert (error.param, "empty" in error.message) == ("messages", True)


def test_half_a_surrogate_pair_is_no_text(chat: Chat) -> None:
    assert refused(chat, [{"role": "user", "content": "a\ud83d"}]).param == "messages"
    assert "\U0001f600" in prompt(chat, [{"role": "user", "content": "\U0001f600"}])


def test_a_prompt_keeps_its_last_tokens(chat: Chat) -> None:
    whole = chat.plan(ASK).prompt
    cut = chat.plan(ASK, truncate_prompt_tokens=3).prompt
    assert (cut.token_ids, cut.text) == (whole.token_ids[-3:], whole.text)
    assert chat.plan(ASK, truncate_prompt_tokens=len(whole.token_ids)).prompt == whole


@pytest.mark.dev_only
def test_a_template_of_its_own_for_requests_with_tools(new_chat: Callable[..., Chat]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = {"default": "plain" + PRINTS, "tool_use": "{{ tools[0].function.name }}" + PRINTS}
    own = new_chat(tokenizer=tokenizer, tool_call_parser="hermes")
    assert prompt(own) == "plain[user|Hi]"
    assert prompt(own, tools=TOOLS) == "weather[user|Hi]"
    assert prompt(own, tools=TOOLS, tool_choice="none") == "plain[user|Hi]"


@pytest.mark.dev_only
def test_tools_of_the_variables_win(chat: Chat) -> None:
    template = "{{ tools[0].function.name }}" + PRINTS
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required", "chat_template": template}
    assert prompt(chat, **fields) == "weather[user|Hi]"
    own = [{"type": "function", "function": {"name": "mine"}}]
    assert prompt(chat, chat_template_kwargs={"tools": own}, **fields) == "mine[user|Hi]"


# --- messages ---------------------------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "weather"}}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, "two", {"type": "text", "text": "three"}]}]


def test_parts_of_content(chat: Chat) -> None:
    assert prompt(chat, PARTS, chat_template=PRINTS) == "[user|one\ntwo\nthree]"
    assert prompt(chat, PARTS, chat_template=LOOPS) == "<text:one><text:two><text:three>"
    assert "one\ntwo\nthree<|im_end|>" in prompt(chat, PARTS)


def test_empty_parts_and_refusals(chat: Chat) -> None:
    refusal = {"type": "refusal", "refusal": "I will not"}
    messages = [
        {"role": "user", "content": ["", "a", {"type": "text", "text": ""}]},
        {"role": "assistant", "content": [refusal, {"type": "text", "text": "so"}]},
        {"role": "assistant", "content": None},
        {"role": "user", "content": []},
    ]
    assert prompt(chat, messages, chat_template=PRINTS) == "[user|a][assistant|I will not\nso][assistant|][user|]"
    lists = "<text:a><text:I will not><text:so>"
    assert prompt(chat, messages, chat_template=LOOPS) == lists


MEDIA: list[tuple[dict[str, Any], str]] = [
    ({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}, "image_url"),
    ({"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}, "input_audio"),
    ({"type": "file", "file": {"file_id": "f"}}, "file"),
    ({"image_url": "https://x.example/a.png"}, "image_url"),
]


@pytest.mark.parametrize(("part", "kind"), MEDIA, ids=lambda value: str(value)[:20])
def test_media_are_refused_by_their_place(chat: Chat, part: dict[str, Any], kind: str) -> None:
    error = refused(chat, [*ASK, {"role": "user", "content": ["look", part]}])
    assert error.param == "messages[1].content[1]"
    assert kind in error.message


def test_developer_messages(chat: Chat) -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, *ASK]
    assert prompt(chat, messages, chat_template=PRINTS) == "[system|a\n\nb][user|Hi]"
    assert prompt(chat, messages[1:], chat_template=PRINTS) == "[system|b][user|Hi]"
    again = [*messages[1:2], *messages[1:2], *ASK, *messages[1:2]]  # each next to the one before
    assert prompt(chat, again, chat_template=PRINTS) == "[system|b\n\nb][user|Hi][system|b]"
    knows = "{# #}{% set x = 'developer' %}" + PRINTS
    assert prompt(chat, messages, chat_template=knows) == "[system|a][developer|b][user|Hi]"


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
CALLS = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}"


def test_arguments_of_tool_calls_are_objects(chat: Chat) -> None:
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
    ]
    assert prompt(chat, messages, chat_template=CALLS) == "Rome"
    reads = "{% for m in messages %}[{{ m.role }}{{ m.tool_call_id }}{{ m.content }}]{% endfor %}"
    assert prompt(chat, messages, chat_template=reads) == "[userHi][assistant][toolc19]"


def test_calls_without_arguments_and_calls_of_objects(chat: Chat) -> None:
    reads = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments }}{% endfor %}{% endfor %}"
    calls = [{**CALL, "function": {"name": "f", "arguments": given}} for given in ("", "{}", {"a": [1]}, '{"b": 2}')]
    assert prompt(chat, [{"role": "assistant", "tool_calls": calls}], chat_template=reads) == "{}{}{'a': [1]}{'b': 2}"
    none = "{% for m in messages %}{{ 'tool_calls' in m }}{% endfor %}"
    assert prompt(chat, [{"role": "assistant", "tool_calls": []}, *ASK], chat_template=none) == "FalseFalse"


@pytest.mark.dev_only
def test_tools_are_described_to_templates_that_know_none(chat: Chat) -> None:
    text = prompt(chat, tools=TOOLS, chat_template=PRINTS)
    assert text.startswith("[system|You can call these functions:")
    assert text.endswith("][user|Hi]")
    asked = prompt(chat, [{"role": "system", "content": "Be brief."}, *ASK], tools=TOOLS, chat_template=PRINTS)
    assert asked.startswith("[system|Be brief.\n\nYou can call these functions:")


@pytest.mark.dev_only
def test_tools_are_described_in_lists_of_parts_where_a_template_reads_these(chat: Chat) -> None:
    template = "{% for m in messages %}[{{ m.role }}]{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    text = prompt(chat, tools=TOOLS, chat_template=template)
    assert text.startswith("[system]You can call these functions")
    assert text.endswith("[user]Hi")


@pytest.mark.dev_only
def test_templates_that_refuse_system_messages_get_tools_from_the_user(chat: Chat) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PRINTS
    tools = [{"type": "function", "function": {"name": "weather"}}]
    text = chat.plan(ASK, tools=tools, chat_template=refuses).prompt.text
    assert text.startswith("[user|You can call these functions:")
    assert text.endswith("\n\nHi]")


def test_calls_and_results_are_text_for_templates_that_read_none(chat: Chat) -> None:
    messages = [
        *ASK,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
        {"role": "tool", "tool_call_id": "c2", "content": "10"},
    ]
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    results = "<tool_response>\n9\n</tool_response>\n<tool_response>\n10\n</tool_response>"
    expected = f"[user|Hi][assistant|Let me see.\n{call}][user|{results}]"
    assert prompt(chat, messages, chat_template=PRINTS) == expected


def test_results_without_calls_are_text_too(chat: Chat) -> None:
    """The deprecated kind of both."""
    messages = [
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "9"},
    ]
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    expected = f"[assistant|{call}][user|<tool_response>\n9\n</tool_response>]"
    assert prompt(chat, messages, chat_template=PRINTS) == expected
    reads = "{# #}{% set role = 'tool' %}" + PRINTS  # knows them, if not tools
    assert prompt(chat, messages, chat_template=reads) == "[assistant|][function|9]"


@pytest.mark.parametrize(("arguments", "reason"), [("{", "no JSON"), ("[1]", "an object"), ("3", "a JSON object")])
def test_arguments_that_are_no_object(chat: Chat, arguments: str, reason: str) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    error = refused(chat, [*ASK, {"role": "assistant", "tool_calls": [CALL, call]}, *ASK])
    assert error.param == "messages[1].tool_calls[1].function.arguments"
    assert reason.removeprefix("an ") in error.message


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_no_template_at_all(new_chat: Callable[..., Chat]) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = None
    chat = new_chat(tokenizer=tokenizer)
    with pytest.raises(RequestError, match="no chat template") as caught:
        chat.complete(ASK, max_tokens=1)
    assert caught.value.param == "chat_template"
    assert chat.plan(ASK, chat_template=PRINTS).prompt.text == "[user|Hi]"


def test_add_special_tokens(new_chat: Callable[..., Chat]) -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", start)]
    )
    chat = new_chat(tokenizer=tokenizer)
    plain = chat.plan(ASK, chat_template=PRINTS).prompt.token_ids
    assert chat.plan(ASK, chat_template=PRINTS, add_special_tokens=True).prompt.token_ids == (start, *plain)


def test_templates_of_requests_may_be_refused(new_chat: Callable[..., Any]) -> None:
    chat = new_chat(trust_request_chat_template=False)
    with pytest.raises(RequestError, match="not taken from requests") as caught:
        chat.plan(ASK, chat_template="{{ messages }}")
    assert caught.value.param == "chat_template"
    chat.plan(ASK)
