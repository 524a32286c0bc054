"""Models that think before they answer: what is enforced begins behind the reasoning."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from chatplan import Chat, RequestError
from chatplan.folding import fold
from chatplan.standin import stand_in

pytestmark = pytest.mark.dev_only
ASK = [{"role": "user", "content": "Hi"}]
EOS = 257
# The template opens the reasoning; without enable_thinking it closes it as well.
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% if opened|default(true) %}{{ '<think>\\n' }}"
    "{% if not enable_thinking|default(true) %}{{ '\\n</think>\\n\\n' }}{% endif %}{% endif %}{% endif %}"
)
SCHEMA = {"enum": [True, False]}
CHOICE: dict[str, Any] = {"guided_choice": ["yes", "no"]}


def chat_with(new_chat: Callable[..., Chat], marks: bool, template: str = TEMPLATE) -> Chat:
    from tokenizers import AddedToken

    tokenizer: Any = copy.deepcopy(stand_in().tokenizer)
    tokenizer.chat_template = template
    if marks:
        added = [AddedToken(mark, special=True) for mark in ("<think>", "</think>")]
        tokenizer.add_tokens(added, special_tokens=True)
    return new_chat(tokenizer=tokenizer)


@pytest.fixture(scope="module", params=[False, True], ids=["several tokens", "one token"])
def chat(new_chat: Callable[..., Chat], request: pytest.FixtureRequest) -> Chat:
    """The marks are several tokens, or one."""
    return chat_with(new_chat, request.param)


@pytest.fixture(scope="module")
def marked(new_chat: Callable[..., Chat]) -> Chat:
    return chat_with(new_chat, True)


def ids(chat: Chat, text: str) -> list[int]:
    return list(chat.model.tokenizer.encode(text, add_special_tokens=False))


def both(chat: Chat, force: str | list[int] = "", **fields: Any) -> tuple[str, str, str]:
    """Reasoning, content and why the answer ended; the same when it is streamed."""
    begin = ids(chat, force) if isinstance(force, str) else force
    given = {"messages": ASK, "force": begin or None, "temperature": 0, "max_tokens": 40, "ignore_eos": None, **fields}
    choice = chat.complete(given).choices[0]
    assert fold(chat.stream(given)).choices[0] == choice
    message = choice.message
    return message.reasoning_content or "", message.content or "", choice.finish_reason or ""


# --- constraints begin behind the reasoning ---------------------------------------------------------------------------


def test_the_constraint_holds_from_the_end_of_the_reasoning_on(chat: Chat) -> None:
    for blank in ("", "\n", "\n\n"):
        reasoning, content, reason = both(chat, f"Let me see{{.</think>{blank}", **CHOICE)
        assert (reasoning, reason) == ("Let me see{.", "stop")
        assert content.strip() in ("yes", "no")
    reasoning, content, reason = both(chat, "Hm</think>", guided_json=SCHEMA)
    assert (reasoning, json.loads(content) in (True, False), reason) == ("Hm", True, "stop")


def test_an_answer_does_not_end_while_it_is_thought_about(chat: Chat) -> None:
    choice = chat.complete(
        {"messages": ASK, "force": [EOS, EOS, EOS], "max_tokens": 4, "return_token_ids": True, **CHOICE}
    ).choices[0]
    assert (choice.finish_reason, EOS in (choice.token_ids or [])) == ("length", False)
    assert both(chat, [EOS], max_tokens=4)[2] == "stop"  # unless nothing is enforced


def test_an_answer_that_never_stops_thinking_is_cut(chat: Chat) -> None:
    reasoning, content, reason = both(chat, "Hm", max_tokens=2, **CHOICE)
    assert (reasoning, content, reason) == ("Hm", "", "length")


@pytest.mark.parametrize("fields", [{"chat_template_kwargs": {"enable_thinking": False}}, {"reasoning_effort": "none"}])
def test_reasoning_that_is_switched_off(chat: Chat, fields: dict[str, Any]) -> None:
    assert chat.plan(ASK, **fields).prompt.text.endswith("<think>\n\n</think>\n\n")
    reasoning, content, reason = both(chat, "Let", **fields, **CHOICE)
    assert (reasoning, content in ("yes", "no"), reason) == ("", True, "stop")


def test_reasoning_that_the_model_begins(marked: Chat) -> None:
    fields: dict[str, Any] = {"chat_template_kwargs": {"opened": False}, **CHOICE}
    assert both(marked, "<think>Hm</think>", **fields)[0] == "Hm"
    assert both(marked, "yes", **fields) == ("", "yes", "stop")  # or does not


def test_reasoning_may_be_left_out(chat: Chat) -> None:
    reasoning, content, _ = both(chat, "Hm</think>", include_reasoning=False, **CHOICE)
    assert (reasoning, content in ("yes", "no")) == ("", True)


def test_half_a_character_does_not_leave_the_reasoning(marked: Chat) -> None:
    """As where a budget cuts it."""
    half = [*ids(marked, "a"), *ids(marked, "北")[:2], *ids(marked, "</think>"), *ids(marked, "yes")]
    assert both(marked, half, **CHOICE) == ("a", "yes", "stop")


def test_a_mark_of_the_user_opens_nothing(marked: Chat) -> None:
    messages = [{"role": "user", "content": "What is <think>"}]
    fields: dict[str, Any] = {"messages": messages, "chat_template_kwargs": {"opened": False}, **CHOICE}
    assert both(marked, "no", **fields) == ("", "no", "stop")


# --- budgets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 5])
def test_a_budget_ends_the_reasoning(chat: Chat, budget: int) -> None:
    reasoning, content, reason = both(chat, "abcdefgh", thinking_token_budget=budget, **CHOICE)
    assert (reasoning, content in ("yes", "no"), reason) == ("abcdefgh"[:budget], True, "stop")
    free = both(chat, "abcdefgh", thinking_token_budget=budget, max_tokens=budget + 12)
    assert free[0] == "abcdefgh"[:budget]


def test_a_budget_ends_the_reasoning_of_every_beam(chat: Chat) -> None:
    fields: dict[str, Any] = {"use_beam_search": True, "n": 2, "thinking_token_budget": 3, "max_tokens": 24}
    answer = chat.complete(ASK, temperature=0, **fields, **CHOICE)
    assert {choice.message.content for choice in answer.choices} <= {"yes", "no"}


def test_a_budget_that_is_not_used_up(chat: Chat) -> None:
    assert both(chat, "abc</think>", thinking_token_budget=30, **CHOICE)[0] == "abc"
    assert both(chat, "abcdefgh", thinking_token_budget=-1, max_tokens=8)[0] == "abcdefgh"


def test_the_mark_that_opens_is_no_part_of_the_budget(marked: Chat) -> None:
    fields: dict[str, Any] = {"chat_template_kwargs": {"opened": False}, "max_tokens": 9}
    assert both(marked, "<think>abcdefgh", thinking_token_budget=2, **fields)[0] == "ab"
    assert both(marked, "abcdefgh", thinking_token_budget=2, **fields)[1].startswith("abcdefgh")  # nothing to end


def test_reasoning_that_is_continued_has_a_budget(chat: Chat) -> None:
    fields: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True, "max_tokens": 16}
    for begun, reasoning in (("<think>I was", "ab"), ("<think>I was</think>", "")):
        messages = [*ASK, {"role": "assistant", "content": begun}]
        found = both(chat, "abcdefgh", messages=messages, thinking_token_budget=2, **fields)
        assert found[0] == reasoning


def test_each_choice_has_a_budget_of_its_own(chat: Chat) -> None:
    fields: dict[str, Any] = {"thinking_token_budget": 3, "temperature": 1.0, "seed": 1, "max_tokens": 20}
    answer = chat.complete({"messages": ASK, "n": 3, "return_token_ids": True, **fields, **CHOICE})
    end = ids(chat, "</think>")
    for choice in answer.choices:
        tokens = choice.token_ids or []
        at = next(at for at in range(4) if tokens[at : at + len(end)] == end)
        assert at <= 3
        assert choice.message.content in ("yes", "no")


# --- what is refused --------------------------------------------------------------------------------------------------


def refused(chat: Chat, **fields: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        chat.complete({"messages": ASK, "max_tokens": 1, **fields})
    return caught.value


def test_templates_that_read_degrees(marked: Chat, tiny: Chat) -> None:
    reads = TEMPLATE + "{{ reasoning_effort }}"
    for effort in ("none", "minimal", "high", "max"):
        plan = marked.plan(ASK, reasoning_effort=effort, chat_template=reads)
        assert plan.template_args["reasoning_effort"] == effort
        assert "enable_thinking" not in plan.template_args
    assert refused(marked, reasoning_effort="high").param == "reasoning_effort"
    own = marked.plan(ASK, reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert own.template_args["enable_thinking"] is True
    thinking = marked.plan(ASK, reasoning_effort="none", chat_template="{{ thinking }}" + TEMPLATE)
    assert thinking.template_args["thinking"] is False


def test_models_that_do_not_reason(new_chat: Callable[..., Chat]) -> None:
    plain = chat_with(new_chat, False, "{% for m in messages %}{{ m.content }}{% endfor %}")
    assert refused(plain, thinking_token_budget=5).param == "thinking_token_budget"
    for effort in ("none", "low"):
        assert refused(plain, reasoning_effort=effort).param == "reasoning_effort"
    assert both(plain, "<think>a</think>", max_tokens=16)[:2] == ("", "<think>a</think>")


@pytest.mark.parametrize("text", ["a <think>b</think> c", "</think>", "a </think>"])
def test_marks_in_an_answer_that_must_match_are_text(chat: Chat, text: str) -> None:
    reasoning, content, _ = both(chat, "abc</think>", guided_choice=[text])
    assert (reasoning, content) == ("abc", text)
