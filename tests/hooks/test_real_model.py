"""What needs real words: a vocabulary whose tokens begin with spaces and cut characters, and a model that makes sense.

All else is tested on the tiny model, in the file of each subject.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pytest
import torch

from chatplan import Chat, ChatPipeline, ModelInfo

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "What is the capital of France?"}]
EOS = 2


def ids(pipe: ChatPipeline, text: str) -> list[int]:
    return list(pipe.chat.model.tokenizer.encode(text, add_special_tokens=False))


def forced(pipe: ChatPipeline, output: str | list[int], **fields: Any) -> Any:
    """The choice whose tokens are ``output``, and then the end of sequence."""
    tokens = ids(pipe, output) if isinstance(output, str) else output
    request = {"temperature": 0, "max_tokens": len(tokens) + 1, "return_token_ids": True, **fields}
    return pipe(ASK, force=[*tokens, EOS], **request).choices[0]


def outcome(choice: Any) -> tuple[str | None, str | None, Any]:
    return choice.message.content, choice.finish_reason, choice.stop_reason


# --- what it reads, and what it says ----------------------------------------------------------------------------------


def test_the_models_own_template(pipe: ChatPipeline) -> None:
    plan = pipe.plan(ASK)
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    user = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n"
    assert plan.prompt.text == f"{system}{user}<|im_start|>assistant\n"
    assert list(plan.prompt.token_ids) == ids(pipe, plan.prompt.text)
    assert plan.max_new_tokens == 8192 - len(plan.prompt.token_ids)


def test_an_answer_that_ends_by_itself_with_the_logprobs_of_a_forward_pass(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, temperature=0, max_tokens=20, logprobs=True, return_token_ids=True)
    assert outcome(answer.choices[0]) == ("The capital of France is Paris.", "stop", None)
    tokens, prompt = answer.choices[0].token_ids, answer.prompt_token_ids
    assert answer.usage.completion_tokens == len(tokens) == 8
    model: Any = pipe.model
    with torch.no_grad():
        logprobs = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(dim=-1)
    wanted = [logprobs[len(prompt) - 1 + at, token].item() for at, token in enumerate(tokens)]
    assert [entry.logprob for entry in answer.choices[0].logprobs.content] == pytest.approx(wanted, abs=2e-4)


def test_bad_words(pipe: ChatPipeline) -> None:
    words = [["Paris"], ["France is"], ["is"]]
    one, two, part = pipe([{"messages": ASK, "bad_words": each} for each in words], max_tokens=8, temperature=0)
    assert "Paris" not in one.text
    assert one.text.startswith("The capital of France is")
    assert "France" in two.text
    assert "France is" not in two.text
    assert " is" not in part.text


# --- where answers end ------------------------------------------------------------------------------------------------

TEXT = "The answer is forty-two, of course."


@pytest.mark.parametrize(("stop", "text"), [("swer is f", "The an"), ("y-t", "The answer is fort")])
def test_a_stop_string_across_tokens(pipe: ChatPipeline, stop: str, text: str) -> None:
    choice = forced(pipe, TEXT, stop=[stop])
    assert outcome(choice) == (text, "stop", stop)
    assert choice.token_ids == ids(pipe, TEXT)[: len(choice.token_ids)]
    assert stop in pipe.chat.model.tokenizer.decode(choice.token_ids)


EMOJI = "ok 👩‍👩‍👧 né"


def test_characters_of_several_tokens(pipe: ChatPipeline) -> None:
    assert any("\ufffd" in pipe.chat.model.token_text(token) for token in ids(pipe, EMOJI))
    for text in (EMOJI, "北京和東京", " lead"):
        assert outcome(forced(pipe, text)) == (text, "stop", None)
    for stop, text in (("👧", "ok 👩‍👩‍"), ("\u200d👧 n", "ok 👩‍👩")):
        assert outcome(forced(pipe, EMOJI, stop=[stop])) == (text, "stop", stop)


def test_min_tokens_and_stop_strings(pipe: ChatPipeline) -> None:
    tokens = ids(pipe, "a b a b a b")
    assert len(tokens) == 6
    assert outcome(forced(pipe, tokens, stop=[" b"], min_tokens=4)) == ("a b a", "stop", " b")
    assert outcome(forced(pipe, tokens, stop=[" b"], min_tokens=5)) == ("a b a b a", "stop", " b")


# --- what is enforced -------------------------------------------------------------------------------------------------

WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Bern"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "clock"}},
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
]


@pytest.mark.dev_only
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_calls(pipe: ChatPipeline, choice: Any) -> None:
    answer = pipe(ASK, tools=TOOLS, tool_choice=choice, temperature=0, max_tokens=90).choices[0]
    [call] = answer.message.tool_calls
    assert answer.message.content is None
    if call.function.name == "weather":
        jsonschema.validate(json.loads(call.function.arguments), WEATHER)
    assert call.function.name == "weather" or choice == "required"


OPENED = "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}assistant:{{ '<think>\\n' }}"
CHOICE: dict[str, Any] = {"guided_choice": ["yes", "no"]}


@pytest.fixture(scope="module")
def thinking(pipe: ChatPipeline) -> Chat:
    """Its own vocabulary, where the marks of reasoning share tokens with what surrounds them."""
    about = pipe.chat.model
    tokenizer = copy.deepcopy(about.tokenizer)
    tokenizer.chat_template = OPENED + "{# </think> #}"
    force = pipe.chat.plugins._manager.get_plugin("Force")  # the plugin of the fixture, which tests cannot import
    return Chat(ModelInfo.of(about.require_module(), tokenizer, name="smollm2"), plugins=[force])


def thought(chat: Chat, force: str | list[int], **fields: Any) -> tuple[str, str, str, list[int]]:
    """Reasoning, content, why the answer ended, and its tokens."""
    begin = chat.model.tokenizer.encode(force, add_special_tokens=False) if isinstance(force, str) else force
    given = {"messages": ASK, "force": begin, "temperature": 0, "max_tokens": 40, "return_token_ids": True, **fields}
    choice = chat.complete(given).choices[0]
    message = choice.message
    return message.reasoning_content or "", message.content or "", choice.finish_reason or "", choice.token_ids or []


@pytest.mark.dev_only
@pytest.mark.parametrize("end", ["</think>", "</think>\n\n", ".</think>\n"])
def test_a_constraint_begins_behind_the_reasoning(thinking: Chat, end: str) -> None:
    schema: dict[str, Any] = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    schema["additionalProperties"] = False
    reasoning, content, reason, _ = thought(thinking, f"I see{end}", guided_json=schema)
    assert (reasoning, json.loads(content)["a"] in (1, 2), reason) == ("I see" + end[: end.find("<")], True, "stop")


@pytest.mark.dev_only
def test_a_token_of_the_mark_and_of_the_answer_is_not_drawn(thinking: Chat) -> None:
    """What the constraint forbids may not slip in with the end of the reasoning."""
    across = int(thinking.model.tokenizer.get_vocab()["></"])
    begin = thinking.model.tokenizer.encode("Hm</think", add_special_tokens=False)
    reasoning, content, reason, tokens = thought(thinking, [*begin, across], **CHOICE)
    assert tokens[: len(begin)] == begin
    assert across not in tokens
    assert (reasoning, content in ("yes", "no"), reason) == ("Hm", True, "stop")


@pytest.mark.dev_only
def test_a_budget_counts_tokens(thinking: Chat) -> None:
    reasoning, content, _, _ = thought(thinking, "one two three four five", thinking_token_budget=3, **CHOICE)
    assert (reasoning, content.strip() in ("yes", "no")) == ("one two three", True)
