"""Rows for which the request forbids every token end with an error, and their neighbours go on."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan import Chat, RequestError
from chatplan.errors import PluginError
from chatplan.manager import Plugins

ASK = [{"role": "user", "content": "Hi"}]


def word_of(chat: Chat) -> tuple[int, str]:
    """A token, and the word that has just this token."""
    [token] = chat.model.tokenizer.encode("a", add_special_tokens=False)
    return token, "a"


@pytest.mark.parametrize("temperature", [0, 1.0])
@pytest.mark.parametrize("beams", [False, True])
def test_nothing_left_to_choose_is_an_error(tiny: Chat, temperature: float, beams: bool) -> None:
    token, word = word_of(tiny)
    fields: dict[str, Any] = {"allowed_token_ids": [token], "bad_words": [word], "temperature": temperature}
    with pytest.raises(RequestError, match="leave none to choose from"):
        tiny.complete(ASK, max_tokens=4, use_beam_search=beams, n=2, **fields)


def test_one_token_left_is_chosen(tiny: Chat) -> None:
    token, word = word_of(tiny)
    other = token + 1
    answer = tiny.complete(
        ASK, max_tokens=4, allowed_token_ids=[token, other], bad_words=[word], return_token_ids=True, temperature=1.0
    )
    assert answer.choices[0].token_ids == [other] * 4


def test_processed_log_probabilities_are_refused_for_beams(new_chat: Any) -> None:
    chat = new_chat(logprobs_mode="processed")
    with pytest.raises(RequestError, match="logprobs: beam search reports raw"):
        chat.complete(ASK, max_tokens=2, use_beam_search=True, logprobs=True)


def test_a_misspelt_field_gets_a_hint(tiny: Chat) -> None:
    with pytest.raises(RequestError, match="did you mean temperature"):
        tiny.plan(ASK, tempurature=1)
    with pytest.raises(RequestError) as refused:
        tiny.plan(ASK, zzz="a")
    assert "did you mean" not in str(refused.value)


def test_explain_from_the_chat(tiny: Chat) -> None:
    [effect] = [item for item in tiny.explain(ASK, top_k=3).fields if item.field == "top_k"]
    assert effect.became == ("processor TopK(top_k=3) at top_k",)


def test_ready_plugins_cannot_be_disabled_afterwards(tiny: Chat) -> None:
    with pytest.raises(PluginError, match="disable has no effect"):
        Chat(tiny.model, plugins=Plugins(), disable=["stops"])
