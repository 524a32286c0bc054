"""Every form in which a conversation comes, on a tiny model, by the rules of the container."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatplan import Chat

MESSAGES = [{"role": "user", "content": "Name a fruit."}]
SHORT = {"max_tokens": 3, "temperature": 0}


def text_of(answer: Any) -> str:
    assert answer["object"] == "chat.completion"
    return str(answer["choices"][0]["message"]["content"])


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": {"messages": MESSAGES, **SHORT}},
        {"inputs": {"messages": MESSAGES}, "parameters": SHORT},
        {"inputs": {"messages": MESSAGES, "max_tokens": 3}, "parameters": {"temperature": 0}},
        {"inputs": {"messages": MESSAGES}, **SHORT},
        {"inputs": MESSAGES, "parameters": SHORT},
        {"inputs": "", "messages": MESSAGES, **SHORT},
        {"inputs": None, "messages": MESSAGES, "parameters": SHORT},
        {"inputs": {}, "messages": MESSAGES, **SHORT, "stream": False, "parameters": None},
        {"inputs": MESSAGES, "messages": MESSAGES, **SHORT},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_one_conversation(toolkit: Any, fruit: str, body: Any) -> None:
    assert text_of(toolkit.ask(body)) == fruit[:3]


def test_answer_is_that_of_the_pipeline(toolkit: Any, direct: Chat) -> None:
    request = {"messages": MESSAGES, "max_tokens": 4, "seed": 3, "n": 2, "logprobs": True, "top_logprobs": 2}
    request |= {"prompt_logprobs": 1, "request_id": "one", "model": "tiny"}
    answer, expected = toolkit.ask({"inputs": request}), direct(request).to_dict()
    assert {**answer, "created": 0} == {**expected, "created": 0}


def test_masked_tokens_have_the_lowest_logprob(toolkit: Any) -> None:
    request = {"messages": MESSAGES, **SHORT, "logprobs": True, "top_logprobs": 3, "guided_choice": ["yes"]}
    content = toolkit.ask({"inputs": request})["choices"][0]["logprobs"]["content"]
    assert -9999.0 in [other["logprob"] for token in content for other in token["top_logprobs"]]


def test_batch_is_answered_in_order(toolkit: Any, fruit: str) -> None:
    regex = [{"messages": MESSAGES, "guided_regex": pattern} for pattern in ("a", "b")]
    answer = toolkit.ask({"inputs": [*regex, MESSAGES, {"inputs": {"messages": MESSAGES}}], "parameters": SHORT})
    assert [text_of(item) for item in answer] == ["a", "b", fruit[:3], fruit[:3]]


def test_batch_of_one_is_a_list(toolkit: Any, fruit: str) -> None:
    answer = toolkit.ask({"inputs": [{"messages": MESSAGES, **SHORT}]})
    assert [text_of(item) for item in answer] == [fruit[:3]]


def test_batch_of_lists_of_messages(toolkit: Any, fruit: str) -> None:
    assert [text_of(item) for item in toolkit.ask({"inputs": [MESSAGES, MESSAGES], **SHORT})] == [fruit[:3], fruit[:3]]


def test_conversations_and_prompts_in_one_batch(toolkit: Any, fruit: str, story: str) -> None:
    short, prompt = {"messages": MESSAGES, **SHORT}, {"inputs": "Once upon a", "parameters": {"max_new_tokens": 1}}
    answer = toolkit.ask({"inputs": [prompt, short, prompt]})
    assert answer[0] == answer[2] == [{"generated_text": story[:1]}]
    assert text_of(answer[1]) == fruit[:3]


def test_vertex(toolkit: Any, fruit: str) -> None:
    answer = toolkit.ask({"instances": [{"messages": MESSAGES}, MESSAGES], "parameters": SHORT})
    assert [text_of(item) for item in answer.pop("predictions")] == [fruit[:3], fruit[:3]]
    assert answer == {}


def test_vertex_prompts(toolkit: Any, story: str) -> None:
    body = {"instances": [{"inputs": "Once upon a", "parameters": {"max_new_tokens": 1}}]}
    assert toolkit.ask(body) == {"predictions": [[{"generated_text": story[:1]}]]}
    shared = {"instances": ["Once upon a"], "parameters": {"max_new_tokens": 1}}
    assert toolkit.ask(shared) == {"predictions": [[{"generated_text": story[:1]}]]}


def test_query_parameters(toolkit: Any, fruit: str) -> None:
    body = {"inputs": MESSAGES}
    assert text_of(toolkit.ask(body, "max_tokens=3&temperature=0&frequency_penalty=0.5&logprobs=true")) == fruit[:3]


def test_body_is_left_as_it_is(handler: Any) -> None:
    body: Any = {"inputs": [{"messages": MESSAGES}], "parameters": dict(SHORT)}
    before = json.dumps(body)
    handler(body)
    assert json.dumps(body) == before


def test_constraints(toolkit: Any) -> None:
    schema: Any = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    schema["additionalProperties"] = False
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    answer = toolkit.ask({"inputs": {"messages": MESSAGES, "temperature": 0, "response_format": form}})
    assert json.loads(text_of(answer))["n"] in (1, 2)
