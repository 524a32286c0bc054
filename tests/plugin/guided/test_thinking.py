"""Constraints that hold from the end of a model's reasoning on."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from chatplan import ModelInfo, Prompt
from chatplan.answering import has_opened
from chatplan.families import AnswerFormat, Reasoning
from chatplan.guided.backend import Grammar, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.thinking import Thought, after_reasoning, with_reasoning
from chatplan.hooks.guidance import GuidanceBackend
from chatplan.request import parse_request
from chatplan.standin import stand_in

PLAIN = stand_in()
ANSWER = Constraint("regex", "yes|no")
REQUEST = parse_request({"messages": [{"role": "user", "content": "Hi"}]})
CONTINUED: dict[str, Any] = {"add_generation_prompt": False, "continue_final_message": True}


@lru_cache
def special() -> ModelInfo:
    """A model whose marks are tokens of their own, and which also has tokens that reach over the end of a mark."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["</", "</th", "ink", ">Ċ", ">y", ">yes", ">yĠ", "ye", "es"]
    vocab = {text: at for at, text in enumerate([*alphabet, *pieces])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = ("<end>", "<think>", "</think>")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in names])
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
    made.chat_template = ""
    return ModelInfo("special", made)


def token(text: str, model: ModelInfo) -> int:
    found = model.tokenizer.convert_tokens_to_ids(text.replace("\n", "Ċ").replace(" ", "Ġ"))
    assert isinstance(found, int)
    return found


def ids(text: str, model: ModelInfo) -> list[int]:
    return list(model.tokenizer.encode(text, add_special_tokens=False))


def grammar(model: ModelInfo, thinking: bool = False, before: str = "<think>") -> Grammar:
    constraint = replace(ANSWER, before=before, after="</think>", thinking=thinking)
    return after_reasoning(constraint, GuidanceBackend(model).compile(ANSWER), model)


def allowed(matcher: Matcher, model: ModelInfo) -> set[int]:
    mask = torch.zeros((model.logits_width + 31) // 32, dtype=torch.int32)
    matcher.fill(mask)
    return {i for i in range(model.logits_width) if int(mask[i // 32]) >> (i % 32) & 1}


def read(matcher: Matcher, text: str, model: ModelInfo) -> Matcher:
    """``matcher`` after ``text``, every token of which was allowed."""
    for each in ids(text, model):
        assert each in allowed(matcher, model)
        matcher.accept(each)
    return matcher


# --- where the reasoning is -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("Hi", False),
        ("", False),
        ("Hi <think>", True),
        ("Hi <think>\n", True),
        ("Hi <think>\n</think>\n", False),
        ("<think>a</think> <think>", True),
        ("say <think> or not", False),  # the user's own words
        ("<think>one thing", False),
    ],
)
def test_whether_the_prompt_opens_the_reasoning(prompt: str, opened: bool) -> None:
    reader = about(Reasoning("<think>", "</think>")).answer_format
    assert reader is not None
    assert has_opened(REQUEST, Prompt((), prompt), reader) is opened


def states(thought: Thought, tokens: list[int]) -> list[str]:
    found: list[str] = []
    for each in tokens:
        thought.accept(each)
        found.append(thought.state)
    return found


def test_a_token_opens_and_another_closes() -> None:
    model = special()
    thought = Thought(model, "<think>", "</think>", False)
    assert thought.state == "before"
    assert states(thought, ids("<think>a</think>b", model)) == ["thinking", "thinking", "answer", "answer"]


def test_an_answer_without_reasoning() -> None:
    thought = Thought(special(), "<think>", "</think>", False)
    assert states(thought, ids("a<think>", special())) == ["answer", "answer"]


def test_an_opening_of_several_tokens_cannot_be_told_from_an_answer() -> None:
    assert Thought(PLAIN, "<think>", "</think>", False).opening is None


@pytest.mark.parametrize(("end", "rest"), [(">", ""), (">\n", "\n"), (">y", "y"), (">yes", "yes")])
def test_a_mark_in_pieces(end: str, rest: str) -> None:
    model = special()
    thought = Thought(model, "<think>", "</think>", True)
    for piece in ("a", "</", "</th", "ink"):
        assert thought.accept(token(piece, model)) is None
    assert thought.accept(token(end, model)) == rest
    assert thought.state == "answer"


def test_copies_go_their_own_ways() -> None:
    model = special()
    thought = Thought(model, "<think>", "</think>", True)
    thought.accept(token("</th", model))
    copied = thought.copy()
    thought.accept(token("a", model))
    assert copied.accept(token("ink", model)) is None
    assert copied.accept(token(">", model)) == ""
    assert (thought.state, copied.state) == ("thinking", "answer")


# --- which constraints wait -------------------------------------------------------------------------------------------


def about(marks: Reasoning | None) -> ModelInfo:
    return replace(PLAIN, answer_format=AnswerFormat("f", (), {}, marks, None, None))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Hi", ("<think>", "</think>", False)),
        ("Hi<think>\n", ("<think>", "</think>", True)),
        ("Hi<think>\n\n</think>\n\n", ("", "", False)),
    ],
)
def test_a_constraint_waits_for_the_end_of_reasoning(prompt: str, expected: tuple[str, str, bool]) -> None:
    found = with_reasoning(ANSWER, REQUEST, Prompt((), prompt), about(Reasoning("<think>", "</think>")))
    assert (found.before, found.after, found.thinking) == expected


@pytest.mark.parametrize(("text", "thinking"), [("<think>so far", True), ("<think>done</think>y", False), ("y", False)])
def test_a_message_that_is_continued_says_itself_whether_it_thinks(text: str, thinking: bool) -> None:
    request = parse_request({"messages": [{"role": "assistant", "content": text}], **CONTINUED})
    found = with_reasoning(ANSWER, request, Prompt((), f"Hi\n{text}"), about(Reasoning("<think>", "</think>")))
    assert (found.thinking, bool(found.after)) == (thinking, thinking)


@pytest.mark.parametrize("model", [PLAIN, about(None)])
def test_models_that_do_not_think(model: ModelInfo) -> None:
    assert with_reasoning(ANSWER, REQUEST, Prompt((), "Hi"), model) == ANSWER


def test_without_reasoning_the_grammar_is_itself() -> None:
    compiled = GuidanceBackend(PLAIN).compile(ANSWER)
    assert after_reasoning(ANSWER, compiled, PLAIN) is compiled
    assert grammar(special()).size == GuidanceBackend(special()).compile(ANSWER).size


# --- what is allowed --------------------------------------------------------------------------------------------------


def test_at_first_the_answer_or_the_opening() -> None:
    model = special()
    own = {token("y", model), token("ye", model), token("n", model)}
    assert allowed(grammar(model).start(), model) == own | {token("<think>", model)}
    assert allowed(grammar(PLAIN).start(), PLAIN) == {ids("y", PLAIN)[0], ids("n", PLAIN)[0]}


def test_while_thinking_everything_but_the_end() -> None:
    model = special()
    everything = set(range(model.logits_width))
    for start in (grammar(model, thinking=True).start(), read(grammar(model).start(), "<think>", model)):
        assert allowed(start, model) == everything - set(model.eos_token_ids)
        matcher = read(start, "no, <think> é", model)
        assert allowed(matcher, model) == everything - set(model.eos_token_ids)


def test_no_token_may_end_the_reasoning_and_begin_the_answer_unseen() -> None:
    model = special()
    matcher = grammar(model, thinking=True).start()
    for piece in ("</", "</th", "ink"):
        matcher.accept(token(piece, model))
    unseen = {token(piece, model) for piece in (">y", ">yes", ">y ")}
    everything = set(range(model.logits_width)) - set(model.eos_token_ids)
    assert allowed(matcher, model) == everything - unseen  # blanks behind the mark are not part of the answer
    matcher.accept(token("a", model))
    assert allowed(matcher, model) == everything


def test_an_opening_of_several_tokens_is_written_to_its_end() -> None:
    model = special()
    matcher = grammar(model, before="<think>\n").start()
    own = {token("y", model), token("ye", model), token("n", model)}
    assert allowed(matcher, model) == own | {token("<think>", model)}
    matcher.accept(token("<think>", model))
    other = matcher.copy()
    assert allowed(matcher, model) == {token("\n", model)}
    matcher.accept(token("\n", model))
    assert allowed(matcher, model) >= {token("a", model), token("</think>", model)}
    assert allowed(other, model) == {token("\n", model)}


@pytest.mark.parametrize("text", ["<think>well</think>yes", "<think></think>no", "yes"])
@pytest.mark.parametrize("beam", [False, True])
def test_then_the_answer_and_its_end(text: str, beam: bool) -> None:
    model = special()
    matcher = read(grammar(model).start(), text, model)
    matcher = matcher.copy() if beam else matcher
    assert allowed(matcher, model) == set(model.eos_token_ids)


def test_the_answer_does_not_open_reasoning() -> None:
    model = special()
    assert token("<think>", model) not in allowed(read(grammar(model).start(), "<think>a</think>", model), model)
    assert token("<think>", model) not in allowed(read(grammar(model).start(), "y", model), model)


ENDS: list[tuple[list[str], str]] = [
    (["</", "t", "h", "ink", ">"], "yn"),
    (["</th", "ink", ">\n"], "yn"),
    (["</th", "ink", ">y"], "e"),
]


@pytest.mark.parametrize(("pieces", "begins"), ENDS, ids=str)
def test_text_behind_the_mark_is_part_of_the_answer(pieces: list[str], begins: str) -> None:
    model = special()
    matcher = grammar(model, thinking=True).start()
    for piece in pieces:
        matcher.accept(token(piece, model))
    texts = {model.token_text(each)[0] for each in allowed(matcher, model)}
    assert texts == set(begins)


def test_spaces_behind_such_text_count() -> None:
    model = special()
    constraint = Constraint("regex", "y es", after="</think>", thinking=True)
    matcher = after_reasoning(constraint, GuidanceBackend(model).compile(constraint), model).start()
    for piece in ("</th", "ink", ">y "):
        matcher.accept(token(piece, model))
    assert allowed(read(matcher, "es", model), model) == set(model.eos_token_ids)


def test_copies_of_a_matcher_go_their_own_ways() -> None:
    model = special()
    matcher = read(grammar(model).start(), "<think>a", model)
    copied = matcher.copy()
    read(matcher, "</think>yes", model)
    assert allowed(copied, model) >= {token("a", model)}
    other: Any = read(copied, "b</think>n", model)
    assert allowed(other, model) == {token("o", model)}
