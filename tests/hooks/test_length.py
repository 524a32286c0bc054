"""How long an answer may be: the request's bound, the model's own, and what the context leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import GenerationConfig

from chatplan import Chat, ChatplanError, ContextLengthError, ModelInfo, RequestError, Settings
from chatplan.standin import stand_in

ASK = [{"role": "user", "content": "Hi"}]
EOS, CONTEXT = 257, 1024  # of the tiny model


def about(bound: int | None = None, context: int | None = None) -> ModelInfo:
    """A model that states a bound of its own, or none, and a context, or none."""
    generation = GenerationConfig() if bound is None else GenerationConfig(max_new_tokens=bound)
    return ModelInfo("m", stand_in().tokenizer, None, generation, settings=Settings(max_model_len=context))


def room(plan: Callable[..., Any], model: ModelInfo, **fields: Any) -> int:
    return int(plan(model, **fields).max_new_tokens)


@pytest.fixture(scope="module")
def plan() -> Callable[..., Any]:
    """Plans for a model that is not there."""
    from chatplan import Plugins, compile_plan
    from chatplan.request import parse_request

    plugins = Plugins(installed=False)

    def make(model: ModelInfo, **fields: Any) -> Any:
        return compile_plan(parse_request({"messages": ASK, **fields}), plugins.introduce(model), plugins)

    return make


def prompt_tokens(tiny: Chat) -> int:
    return len(tiny.plan(ASK).prompt.token_ids)


def test_the_answer_has_what_the_context_leaves(tiny: Chat) -> None:
    assert tiny.plan(ASK).max_new_tokens == CONTEXT - prompt_tokens(tiny)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_request_may_ask_for_exactly_as_much_and_no_more(tiny: Chat, name: str) -> None:
    most = CONTEXT - prompt_tokens(tiny)
    assert tiny.plan(ASK, **{name: most}).max_new_tokens == most
    with pytest.raises(ContextLengthError) as caught:
        tiny.plan(ASK, **{name: most + 1})
    assert caught.value.param == name
    for number in (CONTEXT, CONTEXT + 1, prompt_tokens(tiny), most + 1):
        assert f"{number}" in caught.value.message


@pytest.mark.parametrize("fields", [{"max_tokens": 3}, {"max_completion_tokens": 3}])
def test_the_bound_of_an_answer(tiny: Chat, fields: dict[str, Any]) -> None:
    answer = tiny.complete(ASK, ignore_eos=True, **fields)
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (3, "length")


def test_max_completion_tokens_wins(tiny: Chat) -> None:
    assert tiny.plan(ASK, max_tokens=5, max_completion_tokens=2).max_new_tokens == 2
    assert tiny.plan(ASK, max_tokens=2, max_completion_tokens=5).max_new_tokens == 5


def test_messages_that_fill_the_context_are_refused(tiny: Chat) -> None:
    around = prompt_tokens(tiny) - 2
    full = [{"role": "user", "content": "x" * (CONTEXT - around)}]
    with pytest.raises(ContextLengthError, match=rf"{CONTEXT} tokens.*alone have {CONTEXT}.*truncate") as caught:
        tiny.plan(full)
    assert caught.value.param == "messages"
    assert tiny.plan(full, truncate_prompt_tokens=CONTEXT - 1).max_new_tokens == 1
    assert tiny.plan([{"role": "user", "content": "x" * (CONTEXT - around - 1)}]).max_new_tokens == 1


# --- the model's own bound --------------------------------------------------------------------------------------------


def test_the_models_own_bound_holds_unless_the_request_says(plan: Callable[..., Any]) -> None:
    for context in (None, 500):
        assert room(plan, about(7, context)) == 7
        assert room(plan, about(7, context), max_tokens=3) == 3
        assert room(plan, about(7, context), max_tokens=90) == 90


def test_the_models_own_bound_does_not_widen_the_context(plan: Callable[..., Any]) -> None:
    prompt = len(plan(about(context=500)).prompt.token_ids)
    assert room(plan, about(9000, 500)) == 500 - prompt
    assert room(plan, about(None, 500)) == 500 - prompt


def test_without_any_context_the_answer_needs_a_bound(plan: Callable[..., Any]) -> None:
    with pytest.raises(RequestError, match="states no context length") as caught:
        plan(about())
    assert caught.value.param == "max_tokens"
    assert room(plan, about(), max_completion_tokens=4) == 4


def test_the_answer_of_a_model_with_a_bound_of_its_own_is_cut_there(new_model: Any, new_chat: Any) -> None:
    model = new_model()
    model.generation_config.max_new_tokens = 4
    answer = new_chat(model=model).complete(ASK, ignore_eos=True)
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (4, "length")


# --- at least, and for ever -------------------------------------------------------------------------------------------


def test_more_tokens_than_there_is_room_for_cannot_be_had(plan: Callable[..., Any]) -> None:
    model = about(7, 500)
    assert room(plan, model, min_tokens=7) == 7
    with pytest.raises(RequestError, match="room for 7 tokens, got 8") as caught:
        plan(model, min_tokens=8)
    assert caught.value.param == "min_tokens"


def test_ends_are_banned_before_min_tokens(tiny: Chat) -> None:
    fields: dict[str, Any] = {"max_tokens": 6, "stop_token_ids": [5], "return_token_ids": True, "temperature": 0}
    for end in (EOS, 5):
        answer = tiny.complete(ASK, force=[end] * 6, **fields)
        assert answer.choices[0].token_ids == [end]
        late = tiny.complete(ASK, force=[end] * 6, min_tokens=3, **fields).choices[0].token_ids or []
        assert late[3:] == [end]
        assert not {EOS, 5} & {*late[:3]}


def test_min_tokens_that_ban_all_that_is_allowed_are_refused(tiny: Chat) -> None:
    for fields in ({"allowed_token_ids": [EOS]}, {"allowed_token_ids": [EOS, 5], "stop_token_ids": [5]}):
        with pytest.raises(RequestError, match="bans every token") as caught:
            tiny.plan(ASK, min_tokens=1, **fields)
        assert caught.value.param == "min_tokens"
        tiny.plan(ASK, **fields)
    tiny.plan(ASK, min_tokens=1, allowed_token_ids=[EOS, 5])
    tiny.plan(ASK, min_tokens=1, allowed_token_ids=[EOS], ignore_eos=True)


def test_a_grammar_that_ends_the_answer_outweighs_min_tokens(tiny: Chat) -> None:
    fields: dict[str, Any] = {"guided_choice": ["ab"], "max_tokens": 9, "return_token_ids": True, "temperature": 0}
    answer = tiny.complete(ASK, min_tokens=6, **fields).choices[0]
    assert (answer.message.content, answer.finish_reason, len(answer.token_ids or [])) == ("ab", "stop", 3)
    longer = tiny.complete(ASK, min_tokens=4, **{**fields, "guided_choice": None, "guided_regex": "a*"}).choices[0]
    assert (longer.message.content or "").startswith("aaaa")


def test_an_answer_that_ignores_the_end_goes_on_behind_it(tiny: Chat) -> None:
    fields: dict[str, Any] = {"force": [5, EOS, 6, 7], "max_tokens": 4, "temperature": 0, "return_token_ids": True}
    assert tiny.complete(ASK, **fields).choices[0].token_ids == [5, EOS]
    on = tiny.complete(ASK, ignore_eos=True, **fields).choices[0]
    assert (on.token_ids, on.finish_reason) == ([5, EOS, 6, 7], "length")


@pytest.mark.parametrize("keep", [1, 5, 4000])
def test_truncated_prompts_keep_their_end(tiny: Chat, keep: int) -> None:
    whole = list(tiny.plan(ASK).prompt.token_ids)
    answer = tiny.complete(ASK, truncate_prompt_tokens=keep, max_tokens=1, return_token_ids=True)
    assert answer.prompt_token_ids == whole[-keep:]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == min(keep, len(whole))


def test_a_context_length_error_is_a_request_error_of_status_400() -> None:
    error = ContextLengthError("too long", param="messages")
    assert isinstance(error, RequestError)
    assert isinstance(error, ChatplanError)
    assert error.status == 400
