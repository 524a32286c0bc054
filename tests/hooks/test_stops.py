"""Where answers end: stop strings, however the tokens lie, and stop tokens."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatplan import Chat, RequestError, Row, Step, StopTokens
from chatplan.hooks.stops import StopStrings, first_stop, held_back

ASK = [{"role": "user", "content": "Hi"}]
EOS = 257
TEXT = "The answer is forty-two, of course."


def ids(chat: Chat, text: str) -> list[int]:
    return list(chat.model.tokenizer.encode(text, add_special_tokens=False))


def steps(chat: Chat, output: str | list[int], end: bool = True, **fields: Any) -> list[Step]:
    """What each token of ``output`` and the end of sequence bring, up to the end of the answer."""
    found: list[Step] = []
    tokens = ids(chat, output) if isinstance(output, str) else output
    given = {"messages": ASK, "max_tokens": len(tokens) + 1, **fields}
    row = Row(chat.plan(given), chat.model, emit=lambda row, step: found.append(step))
    for token in [*tokens, EOS] if end else tokens:
        row.push(token)
    return found


def outcome(found: list[Step]) -> tuple[str, str | None, Any]:
    return "".join(step.text for step in found), found[-1].finish_reason, found[-1].stop_reason


# --- stop strings -----------------------------------------------------------------------------------------------------

STOPS: list[tuple[dict[str, Any], str, Any]] = [
    ({"stop": "ver is"}, TEXT, None),  # not there
    ({"stop": "swer is f"}, "The an", "swer is f"),
    ({"stop": ["swer is f"], "include_stop_str_in_output": True}, "The answer is f", "swer is f"),
    ({"stop": ["course", "two", "y-t"]}, "The answer is fort", "y-t"),
    ({"stop": ["er is forty", " is"]}, "The answer", " is"),  # the one that is whole first
    ({"stop": ["."]}, "The answer is forty-two, of course", "."),
    ({"stop": ["The"]}, "", "The"),
    ({"stop": [".."]}, TEXT, None),  # the held-back end of the text comes out at the end
    ({"stop": ["se.!", "e.."]}, TEXT, None),
    ({"stop": ["is", "s"]}, "The an", "s"),
    ({"stop": ["wer is", "is"]}, "The ans", "wer is"),  # of two that end together, the one listed first
    ({"stop": ["is", "wer is"]}, "The answer ", "is"),
    ({"stop": "e", "min_tokens": 20}, "The answer is forty-two, of cours", "e"),
]


@pytest.mark.parametrize(("fields", "text", "stopped_by"), STOPS, ids=lambda value: str(value)[:40])
def test_stop_strings(tiny: Chat, fields: dict[str, Any], text: str, stopped_by: str | None) -> None:
    assert outcome(steps(tiny, TEXT, **fields)) == (text, "stop", stopped_by)


def test_a_stop_string_ends_the_answer_with_the_token_that_completes_it(tiny: Chat) -> None:
    choice = tiny.complete(
        ASK, force=ids(tiny, TEXT), stop=["swer is f"], temperature=0, max_tokens=40, return_token_ids=True
    ).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == ("The an", "stop", "swer is f")
    assert choice.token_ids == ids(tiny, "The answer is f")


@pytest.mark.parametrize(("tokens", "min_tokens", "text"), [("abab", 2, "a"), ("abab", 3, "aba"), ("abab", 5, "abab")])
def test_a_stop_string_before_min_tokens_does_not_count(tiny: Chat, tokens: str, min_tokens: int, text: str) -> None:
    found = outcome(steps(tiny, tokens, stop=["b"], min_tokens=min_tokens))
    assert found == (text, "stop", "b" if min_tokens < 5 else None)


def test_nothing_that_may_be_a_stop_string_is_shown_before_it_is_known(tiny: Chat) -> None:
    """A stop string does not leak into a stream, and what turns out to be none comes as soon as that is seen."""
    texts = [step.text for step in steps(tiny, "an abcabd", stop=["abcabx"])]
    assert texts == ["", "an", " ", "", "", "", "", "", "abcabd", ""]
    assert [step.text for step in steps(tiny, "xabab", end=False, stop=["abc"])] == ["x", "", "", "ab", ""]


def test_what_is_held_back_comes_at_the_end_of_the_answer(tiny: Chat) -> None:
    """Whatever ends it: the end of sequence, a stop token, or the length."""
    assert outcome(steps(tiny, "say ab", stop=["abc"])) == ("say ab", "stop", None)
    [x] = ids(tiny, "x")
    assert outcome(steps(tiny, "say abx", stop=["abc"], stop_token_ids=[x])) == ("say ab", "stop", x)
    assert outcome(steps(tiny, "say ab", stop=["abc"], max_tokens=6)) == ("say ab", "length", None)


def test_a_stop_string_is_reported_before_the_length_but_after_the_end(tiny: Chat) -> None:
    assert outcome(steps(tiny, "say", stop=["y"], max_tokens=3)) == ("sa", "stop", "y")
    [y] = ids(tiny, "y")
    fields: dict[str, Any] = {"stop": ["y"], "stop_token_ids": [y], "include_stop_str_in_output": True}
    assert outcome(steps(tiny, "say", **fields)) == ("say", "stop", y)


EMOJI = "ok 👩‍👩‍👧 né"


@pytest.mark.parametrize(
    ("stop", "text"), [("👧", "ok 👩‍👩‍"), ("👩", "ok "), ("é", "ok 👩‍👩‍👧 n"), ("\u200d👧 n", "ok 👩‍👩")]
)
def test_a_stop_string_of_characters_of_many_bytes(tiny: Chat, stop: str, text: str) -> None:
    assert outcome(steps(tiny, EMOJI, stop=[stop])) == (text, "stop", stop)
    assert outcome(steps(tiny, EMOJI, stop=[stop], include_stop_str_in_output=True)) == (text + stop, "stop", stop)


LETTERS = st.text("ab", min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    text=st.text("abc", max_size=14), stops=st.lists(LETTERS, min_size=1, max_size=3), cuts=st.sets(st.integers(1, 13))
)
def test_pieces_of_any_size_stop_where_characters_would(text: str, stops: list[str], cuts: set[int]) -> None:
    shown, stopped, tail = "", None, ""
    edges = [0, *sorted(cut for cut in cuts if cut < len(text)), len(text)]
    for start, end in pairwise(edges):
        piece = tail + text[start:end]
        found = first_stop(piece, stops, len(tail))
        if found is not None:
            stopped, shown, tail = found[0], shown + piece[: found[1]], ""
            break
        held = held_back(piece, stops)
        shown, tail = shown + piece[: len(piece) - held], piece[len(piece) - held :]
        assert any(stop.startswith(tail) and stop != tail for stop in stops) or not tail
    ends = [(text.find(stop) + len(stop), at) for at, stop in enumerate(stops) if stop in text]
    if not ends:
        assert (shown + tail, stopped) == (text, None)
        return
    end, at = min(ends)
    assert (shown, stopped) == (text[: end - len(stops[at])], stops[at])


@pytest.mark.parametrize(
    ("text", "strings", "held"),
    [
        ("", ["ab"], 0),
        ("xa", ["ab"], 1),
        ("xab", ["ab"], 0),  # whole, so it is no beginning
        ("xaba", ["abac"], 3),
        ("xaab", ["abx", "aabx"], 3),  # the longest
        ("xaab", ["aabx", "abx"], 3),
        ("a", ["b"], 0),
    ],
)
def test_how_much_is_held_back(text: str, strings: list[str], held: int) -> None:
    assert held_back(text, strings) == held


@pytest.mark.parametrize(
    ("text", "strings", "seen", "found"),
    [
        ("abab", ["b"], 0, ("b", 1)),
        ("abab", ["b"], 2, ("b", 3)),
        ("abab", ["ab"], 2, ("ab", 2)),
        ("abab", ["ab"], 1, ("ab", 0)),
        ("abab", ["bab", "ab"], 2, ("bab", 1)),
        ("abc", ["c", "bc", "b"], 0, ("b", 1)),
        ("abc", ["d"], 0, None),
    ],
)
def test_the_first_stop_behind_what_was_seen(
    text: str, strings: list[str], seen: int, found: tuple[str, int] | None
) -> None:
    assert first_stop(text, strings, seen) == found


def test_as_many_stop_strings_as_the_setting_allows(new_chat: Callable[..., Chat]) -> None:
    chat = new_chat(max_stop=2)
    assert chat.plan(ASK, stop=["a", "b"]).output_stages[1] == StopStrings(("a", "b"))
    with pytest.raises(RequestError, match="at most 2 stop strings, got 3") as caught:
        chat.plan(ASK, stop=["a", "b", "c"])
    assert caught.value.param == "stop"


# --- stop tokens ------------------------------------------------------------------------------------------------------


def test_stop_tokens(tiny: Chat) -> None:
    one, two = ids(tiny, "ab")
    fields: dict[str, Any] = {"force": [one, two, 9], "temperature": 0, "max_tokens": 3, "return_token_ids": True}
    choice = tiny.complete(ASK, stop_token_ids=[7, two], **fields).choices[0]
    assert (choice.message.content, choice.finish_reason, choice.stop_reason) == ("a", "stop", two)
    assert choice.token_ids == [one, two]
    kept = tiny.complete(ASK, stop_token_ids=[two], include_stop_str_in_output=True, **fields).choices[0]
    assert (kept.message.content, kept.stop_reason) == ("ab", two)


def test_the_end_of_sequence_wins_over_stop_tokens(tiny: Chat) -> None:
    assert outcome(steps(tiny, "a", stop_token_ids=[EOS])) == ("a", "stop", None)
    assert outcome(steps(tiny, "a", stop_token_ids=[EOS], ignore_eos=True)) == ("a", "stop", EOS)


def test_ids_end_with_the_vocabulary(tiny: Chat) -> None:
    assert tiny.plan(ASK, stop_token_ids=[0, 299]).stopping_criteria == (StopTokens((0, 299)),)
    with pytest.raises(RequestError, match="token id 300 is not in the vocabulary of 300 tokens") as caught:
        tiny.plan(ASK, stop_token_ids=[5, 300])
    assert caught.value.param == "stop_token_ids"


def test_stops_are_counted_as_tokens_of_the_answer(tiny: Chat) -> None:
    answer = tiny.complete(ASK, force=[*ids(tiny, "ab"), EOS], temperature=0, max_tokens=9)
    prompt = len(tiny.plan(ASK).prompt.token_ids)
    usage = answer.usage
    assert usage is not None
    assert (usage.completion_tokens, usage.prompt_tokens, usage.total_tokens) == (3, prompt, prompt + 3)
