"""Where answers end, and what their text is: stop strings and tokens, lengths, detokenisation. On the real model."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan import ChatPipeline, ContextLengthError

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "What is the capital of France?"}]
EOS, START = 2, 1


def ids(pipe: ChatPipeline, text: str) -> list[int]:
    return list(pipe.chat.model.tokenizer.encode(text, add_special_tokens=False))


def forced(pipe: ChatPipeline, output: str | list[int], **fields: Any) -> Any:
    """The choice whose tokens are ``output``, and then EOS."""
    tokens = ids(pipe, output) if isinstance(output, str) else output
    request = {"temperature": 0, "max_tokens": len(tokens) + 1, "return_token_ids": True, **fields}
    return pipe(ASK, force=[*tokens, EOS], **request).choices[0]


def outcome(choice: Any) -> tuple[str | None, str | None, Any]:
    return choice.message.content, choice.finish_reason, choice.stop_reason


# --- stop strings -----------------------------------------------------------------------------------------------------

TEXT = "The answer is forty-two, of course."
STOPS: list[tuple[dict[str, Any], str, str, Any]] = [
    ({"stop": "ver is"}, TEXT, "stop", None),  # not there
    ({"stop": "swer is f"}, "The an", "stop", "swer is f"),
    ({"stop": ["swer is f"], "include_stop_str_in_output": True}, "The answer is f", "stop", "swer is f"),
    ({"stop": ["course", "two", "y-t"]}, "The answer is fort", "stop", "y-t"),
    ({"stop": ["er is forty", " is"]}, "The answer", "stop", " is"),
    ({"stop": ["."]}, "The answer is forty-two, of course", "stop", "."),
    ({"stop": ["The"]}, "", "stop", "The"),
    ({"stop": [".."]}, TEXT, "stop", None),  # the held-back end of the text comes out at the end
    ({"stop": "e", "min_tokens": 9}, "The answer is forty-two, of cours", "stop", "e"),
]


@pytest.mark.parametrize(("fields", "text", "reason", "stopped_by"), STOPS, ids=lambda value: str(value)[:30])
def test_stop_strings(
    pipe: ChatPipeline, fields: dict[str, Any], text: str, reason: str, stopped_by: str | None
) -> None:
    choice = forced(pipe, TEXT, **fields)
    assert outcome(choice) == (text, reason, stopped_by)
    whole = [*ids(pipe, TEXT), EOS]
    assert choice.token_ids == whole[: len(choice.token_ids)]
    decoded = pipe.chat.model.tokenizer.decode(choice.token_ids)
    assert (stopped_by or "") in decoded


def test_a_stop_string_does_not_leak_into_a_stream(pipe: ChatPipeline) -> None:
    stream = pipe(ASK, force=[*ids(pipe, TEXT), EOS], stop=["forty-two"], temperature=0, stream=True, max_tokens=20)
    deltas = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(deltas) == "The answer is "
    assert all(not delta.startswith("f") for delta in deltas)


EMOJI = "ok 👩‍👩‍👧 né"


def test_the_tokens_of_an_emoji_are_parts_of_characters(pipe: ChatPipeline) -> None:
    """What the tests below rest on."""
    assert len(ids(pipe, EMOJI)) > 8
    assert any("\ufffd" in pipe.chat.model.token_text(token) for token in ids(pipe, EMOJI))


@pytest.mark.parametrize("text", [EMOJI, "北京和東京", "مرحبا!", "naïve café", "a\x00b\r\n\ttab", " lead", "  two  "])
def test_text_of_many_bytes_comes_whole(pipe: ChatPipeline, text: str) -> None:
    tokens = ids(pipe, text)
    assert outcome(forced(pipe, text)) == (text, "stop", None)
    stream = pipe(ASK, force=[*tokens, EOS], temperature=0, max_tokens=len(tokens) + 1, stream=True)
    deltas = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(deltas) == text
    assert not any("\ufffd" in delta for delta in deltas)


@pytest.mark.parametrize(
    ("stop", "text"), [("👧", "ok 👩‍👩‍"), ("👩", "ok "), ("é", "ok 👩‍👩‍👧 n"), ("\u200d👧 n", "ok 👩‍👩")]
)
def test_a_stop_string_inside_characters_of_many_bytes(pipe: ChatPipeline, stop: str, text: str) -> None:
    assert outcome(forced(pipe, EMOJI, stop=[stop])) == (text, "stop", stop)
    assert outcome(forced(pipe, EMOJI, stop=[stop], include_stop_str_in_output=True)) == (text + stop, "stop", stop)


def test_half_a_character_at_the_end_is_not_shown(pipe: ChatPipeline) -> None:
    tokens = ids(pipe, "Hi 北")
    assert len(tokens) == 4
    assert outcome(forced(pipe, tokens, max_tokens=3)) == ("Hi", "length", None)


# --- stop tokens ------------------------------------------------------------------------------------------------------


def test_stop_token_ids(pipe: ChatPipeline) -> None:
    tokens = ids(pipe, "one two three")
    choice = forced(pipe, tokens, stop_token_ids=[tokens[1]])
    assert outcome(choice) == ("one", "stop", tokens[1])
    assert choice.token_ids == tokens[:2]
    kept = forced(pipe, tokens, stop_token_ids=[tokens[1]], include_stop_str_in_output=True)
    assert outcome(kept) == ("one two", "stop", tokens[1])


def test_eos_wins_over_stop_tokens(pipe: ChatPipeline) -> None:
    assert outcome(forced(pipe, "one", stop_token_ids=[EOS])) == ("one", "stop", None)
    assert outcome(forced(pipe, "one", stop_token_ids=[EOS], ignore_eos=True)) == ("one", "stop", EOS)


def test_stop_tokens_are_counted(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, force=[*ids(pipe, "one two"), EOS], temperature=0, max_tokens=9)
    assert answer.usage.completion_tokens == 3
    assert answer.usage.prompt_tokens == len(pipe.plan(ASK).prompt.token_ids)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 3


def test_ignore_eos(pipe: ChatPipeline) -> None:
    choice = forced(pipe, [*ids(pipe, "Hi"), EOS, *ids(pipe, " there")], ignore_eos=True)
    assert outcome(choice) == ("Hi there", "length", None)
    assert choice.token_ids[1] == EOS
    assert outcome(forced(pipe, [*ids(pipe, "Hi"), EOS], ignore_eos=False)) == ("Hi", "stop", None)


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_min_tokens_keeps_eos_and_stop_tokens_away(pipe: ChatPipeline) -> None:
    stop = ids(pipe, "!")[0]
    fields: dict[str, Any] = {"max_tokens": 6, "stop_token_ids": [stop]}
    assert forced(pipe, [], **fields).token_ids == [EOS]
    late = forced(pipe, [], min_tokens=3, **fields)
    assert len(late.token_ids) >= 4
    assert not {EOS, stop} & set(late.token_ids[:3])
    exact = forced(pipe, [stop, stop, stop, stop], min_tokens=3, **fields)
    assert exact.token_ids.index(stop) == 3


def test_min_tokens_and_stop_strings(pipe: ChatPipeline) -> None:
    tokens = ids(pipe, "a b a b a b")
    assert len(tokens) == 6
    assert outcome(forced(pipe, tokens, stop=[" b"], min_tokens=4)) == ("a b a", "stop", " b")
    assert outcome(forced(pipe, tokens, stop=[" b"], min_tokens=5)) == ("a b a b a", "stop", " b")


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_bound_of_an_answer(pipe: ChatPipeline, name: str) -> None:
    answer = pipe(ASK, temperature=0, **{name: 3})
    assert answer.usage.completion_tokens == 3
    assert answer.choices[0].finish_reason == "length"


def test_max_completion_tokens_wins(pipe: ChatPipeline) -> None:
    assert pipe(ASK, temperature=0, max_tokens=5, max_completion_tokens=2).usage.completion_tokens == 2


def test_an_answer_that_ends_by_itself(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, temperature=0, max_tokens=20)
    assert outcome(answer.choices[0]) == ("The capital of France is Paris.", "stop", None)
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize("keep", [1, 5, 36, 37, 38, 4000])
def test_truncated_prompts_keep_their_end(pipe: ChatPipeline, keep: int) -> None:
    whole = list(pipe.plan(ASK).prompt.token_ids)
    answer = pipe(ASK, truncate_prompt_tokens=keep, max_tokens=1, return_token_ids=True)
    assert answer.usage.prompt_tokens == min(keep, len(whole))
    assert answer.prompt_token_ids == whole[-keep:]


def test_too_long_for_the_context(pipe: ChatPipeline) -> None:
    prompt = len(pipe.plan(ASK).prompt.token_ids)
    with pytest.raises(ContextLengthError, match=rf"8192 tokens.*{prompt + 8190}.*{prompt} .*8190") as caught:
        pipe(ASK, max_tokens=8190)
    assert caught.value.param == "max_tokens"
    with pytest.raises(ContextLengthError) as caught:
        pipe(ASK, max_completion_tokens=8190)
    assert caught.value.param == "max_completion_tokens"
    long = [{"role": "user", "content": "word " * 9000}]
    with pytest.raises(ContextLengthError, match=r"8192 tokens.*\b90\d\d\b") as caught:
        pipe(long)
    assert caught.value.param == "messages"
    assert pipe.plan(long, truncate_prompt_tokens=8000, max_tokens=192).max_new_tokens == 192
    assert pipe.plan(ASK).max_new_tokens == 8192 - prompt


# --- text -------------------------------------------------------------------------------------------------------------


def test_special_tokens_are_hidden_or_shown(pipe: ChatPipeline) -> None:
    tokens = [*ids(pipe, "Hi"), START, *ids(pipe, " you"), START, START, *ids(pipe, "!")]
    assert forced(pipe, tokens).message.content == "Hi you!"
    shown = "Hi<|im_start|> you<|im_start|><|im_start|>!"
    assert forced(pipe, tokens, skip_special_tokens=False).message.content == shown
    kept = forced(pipe, tokens, skip_special_tokens=False, include_stop_str_in_output=True)
    assert kept.message.content == shown + "<|im_end|>"


def test_spaces_between_special_tokens_are_for_slow_tokenizers(pipe: ChatPipeline) -> None:
    tokens = [START, START, *ids(pipe, "!")]
    for spaces in (True, False):
        fields = {"skip_special_tokens": False, "spaces_between_special_tokens": spaces}
        assert forced(pipe, tokens, **fields).message.content == "<|im_start|><|im_start|>!"
