"""Beam search, against transformers' own on the tiny model: which beams, when the search ends, and what each says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from chatplan import Chat, RequestError

ASK = [{"role": "user", "content": "c"}]
EOS, TOKENS = 257, 8
LIKELY_END = 5.0  # so much likelier that some beams end early, some late and some not at all
BEAM: dict[str, Any] = {"use_beam_search": True, "temperature": 1.0, "max_tokens": TOKENS, "return_token_ids": True}


class Ending(LogitsProcessor):
    """Makes the end of sequence likelier, as ``logit_bias`` does."""

    def __init__(self, bias: float) -> None:
        self.bias = bias

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> Any:
        scores = scores.clone()
        scores[:, EOS] += self.bias
        return scores.log_softmax(dim=-1)


def ids(answer: Any) -> list[list[int]]:
    return [choice.token_ids for choice in answer.choices]


def searched(chat: Chat, bias: float = LIKELY_END, **fields: Any) -> list[list[int]]:
    return ids(chat.complete(ASK, **BEAM, logit_bias={str(EOS): bias}, **fields))


def reference(chat: Chat, bias: float = LIKELY_END, ends: Sequence[int] = (EOS,), **arguments: Any) -> list[list[int]]:
    """The beams of ``model.generate``, each up to its first end."""
    model: Any = chat.model.module
    prompt = list(chat.plan(ASK).prompt.token_ids)
    found = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt)),
        max_new_tokens=TOKENS,
        do_sample=False,
        eos_token_id=list(ends),
        pad_token_id=256,
        logits_processor=LogitsProcessorList([Ending(bias)]),
        **arguments,
    )
    return [cut(beam[len(prompt) :], ends) for beam in found.tolist()]


def cut(beam: list[int], ends: Sequence[int]) -> list[int]:
    return next((beam[: at + 1] for at, token in enumerate(beam) if token in ends), beam)


# What a request says, and what that is for transformers.
STOPPING: list[tuple[dict[str, Any], Any]] = [
    ({}, "never"),
    ({"early_stopping": "never"}, "never"),
    ({"early_stopping": True}, True),
    ({"early_stopping": False}, False),
]


@pytest.mark.parametrize(("fields", "early_stopping"), STOPPING, ids=str)
@pytest.mark.parametrize("penalty", [None, -1.0, 0.0, 1.0, 2.0])
def test_beams_are_those_of_generate(
    tiny: Chat, fields: dict[str, Any], early_stopping: Any, penalty: float | None
) -> None:
    own = fields if penalty is None else {**fields, "length_penalty": penalty}
    wanted = reference(
        tiny,
        num_beams=3,
        num_return_sequences=3,
        early_stopping=early_stopping,
        length_penalty=1.0 if penalty is None else penalty,
    )
    assert searched(tiny, n=3, **own) == wanted


def test_the_conversation_of_these_tests_tells_the_settings_apart(tiny: Chat) -> None:
    """Else the test above would pass whatever was handed on."""
    searches = [searched(tiny, n=3, early_stopping=stopping) for stopping in ("never", True, False)]
    searches += [searched(tiny, n=3, length_penalty=penalty) for penalty in (-1.0, 0.0)]
    for at, one in enumerate(searches):
        assert all(one != other for other in searches[:at])
    assert {tokens[-1] == EOS for tokens in searches[0]} == {True, False} or len({*map(len, searches[0])}) > 1


def test_n_is_the_width_of_the_search(tiny: Chat) -> None:
    for n in (1, 2, 5):
        arguments: dict[str, Any] = {"early_stopping": "never"} if n > 1 else {}
        assert searched(tiny, 0.0, n=n) == reference(tiny, 0.0, num_beams=n, num_return_sequences=n, **arguments)


def test_the_best_of_more_beams(tiny: Chat) -> None:
    """``best_of`` is the width, of which the best ``n`` are returned."""
    wide = reference(tiny, num_beams=6, num_return_sequences=2, early_stopping="never")
    assert searched(tiny, n=2, best_of=6) == wide
    assert searched(tiny, n=2) != wide
    assert searched(tiny, n=2, best_of=2) == searched(tiny, n=2)


# --- what ends a beam -------------------------------------------------------------------------------------------------


def test_the_search_ends_a_beam_at_stop_tokens(tiny: Chat) -> None:
    """Beams that end there are compared as they are; to cut them afterwards would give others."""
    plain = searched(tiny, 0.0, n=3, early_stopping=True)
    stop = plain[0][2]
    ends = [EOS, stop]
    wanted = reference(tiny, 0.0, ends, num_beams=3, num_return_sequences=3, early_stopping=True)
    assert wanted != [cut(beam, ends) for beam in plain]
    answer = tiny.complete(ASK, **BEAM, n=3, early_stopping=True, stop_token_ids=[stop])
    assert ids(answer) == wanted
    stopped = [choice for choice in answer.choices if choice.stop_reason == stop]
    assert stopped
    assert all(choice.token_ids and choice.token_ids[-1] == stop for choice in stopped)


def test_without_the_end_of_sequence_only_stop_tokens_end_a_beam(tiny: Chat) -> None:
    fields: dict[str, Any] = {"n": 3, "early_stopping": True, "ignore_eos": True}
    found = searched(tiny, **fields)
    assert {len(beam) for beam in found} == {TOKENS}
    assert any(EOS in beam[:-1] for beam in found)
    stop = next(token for beam in found for token in beam[:-1] if token != EOS)
    wanted = reference(tiny, ends=[stop], num_beams=3, num_return_sequences=3, early_stopping=True)
    assert searched(tiny, stop_token_ids=[stop], **fields) == wanted


def test_a_stop_string_cuts_a_beam(tiny: Chat) -> None:
    plain = tiny.complete(ASK, **BEAM, n=2, allowed_token_ids=[*range(64, 90)])
    text = plain.choices[0].message.content or ""
    stop = text[3:5]
    answer = tiny.complete(ASK, **BEAM, n=2, allowed_token_ids=[*range(64, 90)], stop=[stop])
    assert (answer.choices[0].message.content, answer.choices[0].stop_reason) == (text[: text.index(stop)], stop)


def test_min_tokens_holds_for_beams(tiny: Chat) -> None:
    assert any(len(beam) < 6 for beam in searched(tiny, 30.0, n=3))
    assert all(len(beam) >= 6 for beam in searched(tiny, 30.0, n=3, min_tokens=5))


def test_bans_hold_for_beams(tiny: Chat) -> None:
    first = searched(tiny, 0.0, n=2)[0][0]
    answer = tiny.complete(ASK, **BEAM, n=2, logit_bias={str(first): -100})
    assert all(first not in beam for beam in ids(answer))


def test_penalties_count_each_beams_own_tokens(tiny: Chat) -> None:
    """With a penalty that no logit outweighs, no beam has a token twice, though beams have tokens in common."""
    allowed = [*range(200, 210)]  # none of the prompt's
    bias = {str(token): 50 for token in allowed}  # above zero, or the penalty would be another one
    fields: dict[str, Any] = {**BEAM, "n": 3, "allowed_token_ids": allowed, "logit_bias": bias, "length_penalty": 0.0}
    repeats = ids(tiny.complete(ASK, **fields))
    beams = ids(tiny.complete(ASK, **fields, repetition_penalty=1000.0))
    assert any(len({*beam}) < len(beam) for beam in repeats)
    assert [len({*beam}) for beam in beams] == [TOKENS] * 3
    assert {*beams[0]} & {*beams[1]}


# --- what comes back --------------------------------------------------------------------------------------------------


def total(choice: Any) -> float:
    return float(sum(entry.logprob for entry in choice.logprobs.content))


def test_beams_come_best_first_with_the_logprobs_of_a_forward_pass(tiny: Chat) -> None:
    answer = tiny.complete(ASK, **BEAM, n=4, logprobs=True, top_logprobs=1, length_penalty=0.0)
    totals = [total(choice) for choice in answer.choices]
    assert totals == sorted(totals, reverse=True)
    greedy = tiny.complete(ASK, temperature=0, max_tokens=TOKENS, logprobs=True)
    assert totals[0] >= total(greedy.choices[0]) - 1e-4
    model: Any = tiny.model.module
    prompt = tiny.plan(ASK).prompt.token_ids
    for choice in answer.choices:
        tokens = choice.token_ids or []
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prompt, *tokens]])).logits[0].log_softmax(dim=-1)
        wanted = [logprobs[len(prompt) - 1 + at, token].item() for at, token in enumerate(tokens)]
        assert choice.logprobs is not None
        assert [entry.logprob for entry in choice.logprobs.content] == pytest.approx(wanted, abs=2e-4)


def test_temperature_flattens_what_beams_are_compared_by(tiny: Chat) -> None:
    fields = {**BEAM, "n": 3, "length_penalty": 0.0}
    cold, hot = (ids(tiny.complete(ASK, **{**fields, "temperature": heat})) for heat in (0.05, 3.0))
    assert cold != hot
    assert ids(tiny.complete(ASK, **{**fields, "temperature": 0})) == ids(tiny.complete(ASK, **fields))


def test_a_streamed_search_is_the_same(tiny: Chat) -> None:
    whole = tiny.complete(ASK, **BEAM, n=2)
    chunks = list(tiny.stream(ASK, **BEAM, n=2))
    for at, choice in enumerate(whole.choices):
        own = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == at]
        assert "".join(each.delta.content or "" for each in own) == choice.message.content
        assert [token for each in own for token in each.token_ids or ()] == choice.token_ids
    assert whole.usage is not None
    assert whole.usage.completion_tokens == sum(map(len, ids(whole)))


def test_what_only_acts_on_drawn_tokens_is_refused(tiny: Chat) -> None:
    for name, value in {"top_p": 0.5, "top_k": 3, "min_p": 0.1}.items():
        with pytest.raises(RequestError, match="has no meaning in beam search") as caught:
            tiny.plan(ASK, use_beam_search=True, n=2, **{name: value})
        assert caught.value.param == name
    tiny.plan(ASK, use_beam_search=True, n=2, top_p=1.0, top_k=0, min_p=0.0)  # what they are anyway


def test_beams_report_raw_logprobs_only(new_chat: Callable[..., Chat]) -> None:
    processed = new_chat(logprobs_mode="processed")
    with pytest.raises(RequestError, match="raw") as caught:
        processed.plan(ASK, use_beam_search=True, n=2, logprobs=True)
    assert caught.value.param == "logprobs"
    processed.plan(ASK, use_beam_search=True, n=2)
    processed.plan(ASK, logprobs=True)
