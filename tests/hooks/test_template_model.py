"""From messages to the prompt: everything that steers the chat template. On the real tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from chatplan import Chat, ChatPipeline, RequestError

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "Hi"}]
SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
USER = "<|im_start|>user\nHi<|im_end|>\n"
PRINTS = "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}"
LOOPS = "{% for m in messages %}{% for part in m.content %}<{{ part.type }}:{{ part.text }}>{% endfor %}{% endfor %}"
READS_DOCUMENTS = "{% for d in documents %}{{ d.title }}={{ d.text }};{% endfor %}" + PRINTS


def prompt(pipe: ChatPipeline, messages: Any = ASK, **fields: Any) -> str:
    """The rendered text, which must also be what the model reads."""
    plan = pipe.plan(messages, **fields)
    if not fields.get("add_special_tokens"):
        ids = pipe.chat.model.tokenizer.encode(plan.prompt.text, add_special_tokens=False)
        assert list(plan.prompt.token_ids) == ids
    return plan.prompt.text


def refused(pipe: ChatPipeline, messages: Any = ASK, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        pipe(messages, max_tokens=1, **fields)
    return caught.value


def test_the_models_template(pipe: ChatPipeline) -> None:
    assert prompt(pipe) == f"{SYSTEM}{USER}<|im_start|>assistant\n"
    assert prompt(pipe, add_generation_prompt=False) == f"{SYSTEM}{USER}"


def test_without_a_generation_prompt_the_role_is_the_last_messages(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, add_generation_prompt=False, max_tokens=1)
    assert answer.choices[0].message.role == "user"
    assert pipe(ASK, max_tokens=1).choices[0].message.role == "assistant"


PREFILL = [*ASK, {"role": "assistant", "content": "The colour of the sky is"}]
CONTINUE: dict[str, Any] = {"continue_final_message": True, "add_generation_prompt": False}


def test_continue_final_message(pipe: ChatPipeline) -> None:
    assert prompt(pipe, PREFILL, **CONTINUE) == f"{SYSTEM}{USER}<|im_start|>assistant\nThe colour of the sky is"
    answer = pipe(PREFILL, temperature=0, max_tokens=4, **CONTINUE)
    assert answer.text.startswith(" ")
    assert answer.choices[0].message.role == "assistant"


def test_echo(pipe: ChatPipeline) -> None:
    fields: dict[str, Any] = {"temperature": 0, "max_tokens": 4, **CONTINUE}
    plain, echoed = pipe(PREFILL, **fields), pipe(PREFILL, echo=True, **fields)
    assert echoed.text == "The colour of the sky is" + plain.text
    assert echoed.usage == plain.usage
    deltas = [chunk.choices[0].delta.content for chunk in pipe(PREFILL, echo=True, stream=True, **fields)]
    assert deltas[:2] == ["", "The colour of the sky is"]
    assert "".join(delta or "" for delta in deltas) == echoed.text
    other = pipe(ASK, echo=True, temperature=0, max_tokens=2)  # the last message is the user's
    assert not other.text.startswith("Hi")


def test_both_kinds_of_turn_are_refused(pipe: ChatPipeline) -> None:
    assert refused(pipe, PREFILL, continue_final_message=True).param == "continue_final_message"


def test_own_template(pipe: ChatPipeline) -> None:
    assert prompt(pipe, chat_template=PRINTS) == "[user|Hi]"
    assert pipe(ASK, chat_template=PRINTS, max_tokens=1).usage.prompt_tokens < 10


def test_own_template_that_fails(pipe: ChatPipeline) -> None:
    for template in ("{% for", "{{ raise_exception('no good') }}", "{{ 1 / 0 }}"):
        error = refused(pipe, chat_template=template)
        assert error.param == "chat_template"
        assert "template" in str(error)
    assert "no good" in str(refused(pipe, chat_template="{{ raise_exception('no good') }}"))


def test_template_kwargs(pipe: ChatPipeline) -> None:
    template = "{{ mood|default('none') }} {{ add_generation_prompt }}" + PRINTS
    assert prompt(pipe, chat_template=template) == "none True[user|Hi]"
    kwargs = {"mood": "calm", "add_generation_prompt": False}
    assert prompt(pipe, chat_template=template, chat_template_kwargs=kwargs) == "calm False[user|Hi]"


def test_documents(pipe: ChatPipeline) -> None:
    documents = [{"title": "Tides", "text": "The moon pulls."}]
    assert prompt(pipe, documents=documents, chat_template=READS_DOCUMENTS) == "Tides=The moon pulls.;[user|Hi]"
    assert refused(pipe, documents=documents).param == "documents"


# --- messages ---------------------------------------------------------------------------------------------------------

PARTS = [{"role": "user", "content": [{"type": "text", "text": "one"}, "two", {"type": "text", "text": "three"}]}]


def test_parts_of_content(pipe: ChatPipeline) -> None:
    assert prompt(pipe, PARTS, chat_template=PRINTS) == "[user|one\ntwo\nthree]"
    assert prompt(pipe, PARTS, chat_template=LOOPS) == "<text:one><text:two><text:three>"
    assert "one\ntwo\nthree<|im_end|>" in prompt(pipe, PARTS)


MEDIA: list[tuple[dict[str, Any], str]] = [
    ({"type": "image_url", "image_url": {"url": "https://x.example/a.png"}}, "image_url"),
    ({"type": "input_audio", "input_audio": {"data": "aaaa", "format": "wav"}}, "input_audio"),
    ({"type": "file", "file": {"file_id": "f"}}, "file"),
    ({"image_url": "https://x.example/a.png"}, "image_url"),
]


@pytest.mark.parametrize(("part", "kind"), MEDIA, ids=lambda value: str(value)[:20])
def test_media_are_refused_by_their_place(pipe: ChatPipeline, part: dict[str, Any], kind: str) -> None:
    error = refused(pipe, [*ASK, {"role": "user", "content": ["look", part]}])
    assert error.param == "messages[1].content[1]"
    assert kind in error.message


def test_developer_messages(pipe: ChatPipeline) -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, *ASK]
    assert prompt(pipe, messages, chat_template=PRINTS) == "[system|a\n\nb][user|Hi]"
    assert prompt(pipe, messages[1:], chat_template=PRINTS) == "[system|b][user|Hi]"
    knows = "{# #}{% set x = 'developer' %}" + PRINTS
    assert prompt(pipe, messages, chat_template=knows) == "[system|a][developer|b][user|Hi]"


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
CALLS = "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.city }}{% endfor %}{% endfor %}"


def test_arguments_of_tool_calls_are_objects(pipe: ChatPipeline) -> None:
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
    ]
    assert prompt(pipe, messages, chat_template=CALLS) == "Rome"
    reads = "{% for m in messages %}[{{ m.role }}{{ m.tool_call_id }}{{ m.content }}]{% endfor %}"
    assert prompt(pipe, messages, chat_template=reads) == "[userHi][assistant][toolc19]"


@pytest.mark.dev_only
def test_templates_that_refuse_system_messages_get_tools_from_the_user(pipe: ChatPipeline) -> None:
    refuses = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PRINTS
    tools = [{"type": "function", "function": {"name": "weather"}}]
    text = pipe.plan(ASK, tools=tools, chat_template=refuses).prompt.text
    assert text.startswith("[user|You can call these functions:")
    assert text.endswith("\n\nHi]")


def test_calls_and_results_are_text_for_templates_that_read_none(pipe: ChatPipeline) -> None:
    messages = [
        *ASK,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "9"},
        {"role": "tool", "tool_call_id": "c2", "content": "10"},
    ]
    call = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
    results = "<tool_response>\n9\n</tool_response>\n<tool_response>\n10\n</tool_response>"
    expected = f"[user|Hi][assistant|Let me see.\n{call}][user|{results}]"
    assert prompt(pipe, messages, chat_template=PRINTS) == expected


@pytest.mark.parametrize("arguments", ["{", "[1]", "3"])
def test_arguments_that_are_no_object(pipe: ChatPipeline, arguments: str) -> None:
    call = {**CALL, "function": {"name": "weather", "arguments": arguments}}
    error = refused(pipe, [*ASK, {"role": "assistant", "tool_calls": [call]}, *ASK])
    assert error.param == "messages[1].tool_calls[0].function.arguments"


# --- tokenizers -------------------------------------------------------------------------------------------------------


def byte_tokenizer() -> Any:
    """A byte tokenizer of its own, which may be changed."""
    import copy

    from chatplan.standin import stand_in

    return copy.deepcopy(stand_in().tokenizer)


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
