"""Tokens that are pushed, allowed and forbidden: what the plan says of words, and what the answer holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chatplan import Chat, RequestError, Stage
from chatplan.hooks.bias import BadWords

ASK = [{"role": "user", "content": "Hi"}]
A, B, X, Y = 1, 2, 3, 4


@pytest.mark.parametrize(
    ("words", "output", "banned"),
    [
        ([[A, B]], [A], [B]),
        ([[A, B]], [X, A], [B]),
        ([[A, B]], [A, X], []),
        ([[A, B]], [], []),
        ([[X, Y, B]], [X, Y], [B]),
        ([[X, Y, B]], [A, Y], []),  # all of the tokens before, not only the last of them
        ([[X, Y, B]], [Y], []),
        ([[X, Y, B]], [Y, X], []),
        ([[X, X, Y]], [X], []),
        ([[X, X, Y]], [A, X, X, X], [Y]),
        ([[A], [X, B], [X, Y]], [X], [A, B, Y]),
    ],
)
def test_a_bad_word_forbids_its_last_token_behind_all_others(
    words: list[list[int]], output: list[int], banned: list[int]
) -> None:
    assert BadWords(tuple(map(tuple, words))).forbidden_after(output) == banned


def test_bad_words_of_any_length_never_come_out(tiny: Chat) -> None:
    """The answer is drawn from two letters, so that each of the words would."""
    allowed = tiny.model.tokenizer.encode("ab", add_special_tokens=False)
    fields: dict[str, Any] = {"allowed_token_ids": allowed, "temperature": 2.0, "max_tokens": 40, "n": 3, "seed": 1}
    plain = [choice.message.content or "" for choice in tiny.complete(ASK, **fields).choices]
    for word in ("ab", "aab", "aba", "babb"):
        assert any(word in text for text in plain)
        texts = [choice.message.content or "" for choice in tiny.complete(ASK, bad_words=[word], **fields).choices]
        assert not any(word in text for text in texts)
        assert all(len(text) == 40 for text in texts)


# --- spellings of a word ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def worded(new_chat: Callable[..., Chat]) -> Chat:
    """A vocabulary where words with a space before them are tokens of their own: ``cat``, but not ``dog``."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {word: at for at, word in enumerate([*alphabet, "ca", "cat", "Ġcat", "do", "dog", "Ġs"])}
    merges = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("d", "o"), ("do", "g"), ("Ġ", "s")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    made.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    return new_chat(tokenizer=made)


def sequences(chat: Chat, *words: str) -> list[list[str]]:
    plan = chat.plan(ASK, bad_words=list(words))
    [item] = [item for stage, item in plan.processors if stage is Stage.BAD_WORDS]
    tokenizer: Any = chat.model.tokenizer
    return [tokenizer.convert_ids_to_tokens(list(ids)) for ids in item.sequences]


def test_a_word_is_forbidden_with_and_without_a_space_before_it(worded: Chat) -> None:
    cat = sequences(worded, "cat")
    assert cat == [["cat"], ["Ġcat"]]
    assert sequences(worded, " cat") == cat  # as it is written makes no difference
    assert sequences(worded, "sx") == [["s", "x"], ["Ġs", "x"]]


def test_a_space_that_is_a_token_of_its_own_is_no_second_spelling(worded: Chat) -> None:
    """The word behind it is the same; and so many tokens more would let it through elsewhere."""
    assert sequences(worded, "dog") == [["dog"]]
    assert sequences(worded, "dog", "cat") == [["dog"], ["cat"], ["Ġcat"]]


def test_a_word_of_blanks_has_no_tokens(worded: Chat) -> None:
    with pytest.raises(RequestError, match="has no tokens") as caught:
        worded.plan(ASK, bad_words=["cat", "  "])
    assert caught.value.param == "bad_words"


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "last", "beyond"), [("logit_bias", {"299": 1}, {"300": 1}), ("allowed_token_ids", [299], [5, 300])]
)
def test_ids_end_with_the_vocabulary(tiny: Chat, name: str, last: Any, beyond: Any) -> None:
    tiny.plan(ASK, **{name: last})
    with pytest.raises(RequestError, match="token id 300 is not in the vocabulary of 300 tokens") as caught:
        tiny.plan(ASK, **{name: beyond})
    assert caught.value.param == name


def test_logit_bias_forces_and_bans(tiny: Chat) -> None:
    fields: dict[str, Any] = {"max_tokens": 5, "return_token_ids": True}
    plain = tiny.complete(ASK, temperature=0, ignore_eos=True, **fields).choices[0].token_ids or []
    for more in ({"temperature": 0}, {"seed": 1}):
        forced = tiny.complete(ASK, logit_bias={"123": 100}, **more, **fields)
        assert forced.choices[0].token_ids == [123] * 5
    banned = tiny.complete(ASK, temperature=0, logit_bias=dict.fromkeys(map(str, plain), -100), **fields)
    assert not {*plain} & {*(banned.choices[0].token_ids or [])}


def test_only_allowed_tokens_are_drawn(tiny: Chat) -> None:
    fields: dict[str, Any] = {"allowed_token_ids": [7, 9, 11], "temperature": 5.0, "max_tokens": 40, "seed": 3}
    answer = tiny.complete(ASK, return_token_ids=True, **fields)
    assert {*(answer.choices[0].token_ids or [])} == {7, 9, 11}
