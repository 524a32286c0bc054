"""Log-probabilities of answers and prompts, against direct forward passes of the tiny model."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from chatplan import Chat, RequestError

ASK = [{"role": "user", "content": "Name a colour."}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6, "ignore_eos": True}
VOCABULARY = 300


def direct(chat: Chat, token_ids: Sequence[int]) -> Any:
    """Log-probabilities of every token at every position, ``[tokens, vocabulary]``, from one forward pass."""
    model: Any = chat.model.module
    with torch.no_grad():
        return model(torch.tensor([list(token_ids)])).logits[0].float().log_softmax(dim=-1)


def entries(answer: Any) -> list[Any]:
    return list(answer.choices[0].logprobs.content)


WISHES: list[dict[str, Any]] = [
    {"temperature": 0},
    {"temperature": 1.3, "seed": 5, "top_p": 0.9, "top_k": 50, "min_p": 0.001},
    {"temperature": 0, "repetition_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": {"30": 4}},
    {"temperature": 0, "allowed_token_ids": [3, 4, 5]},
]


@pytest.mark.parametrize("top", [1, 4])
def test_the_answers_logprobs_are_those_of_a_forward_pass(tiny: Chat, top: int) -> None:
    """Raw ones, whatever was done to the logits before the draw."""
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": top, "return_token_ids": True, "max_tokens": 6}
    answers = tiny.complete_batch([{"messages": ASK, **wish} for wish in WISHES], ignore_eos=True, **fields)
    text = tiny.model.token_text
    for answer in answers:
        tokens, prompt = answer.choices[0].token_ids or [], answer.prompt_token_ids or []
        wanted = direct(tiny, [*prompt, *tokens])[len(prompt) - 1 : -1]
        assert len(entries(answer)) == len(tokens) == 6
        for token, entry, row in zip(tokens, entries(answer), wanted, strict=True):
            likeliest = [i for i in row.topk(top).indices.tolist() if i != token]
            shown = [token, *likeliest][:top]
            assert (entry.token, entry.logprob) == (text(token), pytest.approx(row[token].item(), abs=2e-4))
            assert [item.token for item in entry.top_logprobs] == [text(i) for i in shown]
            wished = [row[i].item() for i in shown]
            assert [item.logprob for item in entry.top_logprobs] == pytest.approx(wished, abs=2e-4)


def test_rows_with_different_counts_at_once(tiny: Chat) -> None:
    """Each has as many as it asked for."""
    counts: list[dict[str, Any]] = [{"top_logprobs": 2}, {}, {"top_logprobs": 5}, {"top_logprobs": 0}]
    requests = [{"messages": ASK, "logprobs": True, **count} for count in counts]
    answers = tiny.complete_batch([*requests, {"messages": ASK}], **GREEDY)
    found = [[len(entry.top_logprobs) for entry in entries(answer)] for answer in answers[:-1]]
    assert found == [[2] * 6, [0] * 6, [5] * 6, [0] * 6]
    assert answers[-1].choices[0].logprobs is None


def test_the_whole_vocabulary(new_chat: Callable[..., Chat]) -> None:
    chat = new_chat(max_logprobs=-1)
    few, every = chat.complete_batch([{"messages": ASK, "top_logprobs": count} for count in (2, -1)],
                                     logprobs=True, temperature=0, max_tokens=1)  # fmt: skip
    assert len(entries(few)[0].top_logprobs) == 2
    found = entries(every)[0].top_logprobs
    assert len(found) == VOCABULARY
    assert sum(math.exp(item.logprob) for item in found) == pytest.approx(1, abs=1e-4)


def test_processed_logprobs_are_those_of_the_draw(new_chat: Callable[..., Chat]) -> None:
    chat = new_chat(logprobs_mode="processed")
    answer = chat.complete(ASK, logprobs=True, top_logprobs=5, temperature=1.0, top_k=3, seed=1, max_tokens=4)
    for entry in entries(answer):
        finite = [item.logprob for item in entry.top_logprobs if item.logprob > -9999]
        assert len(finite) == 3
        assert sum(map(math.exp, finite)) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("name", ["top_logprobs", "prompt_logprobs"])
def test_more_than_the_setting_allows(new_chat: Callable[..., Chat], name: str) -> None:
    chat = new_chat(max_logprobs=3)
    for count in (0, 3):
        chat.plan(ASK, logprobs=True, **{name: count})
    for count in (4, -1):
        with pytest.raises(RequestError, match=f"at most 3 .*got {count}") as caught:
            chat.plan(ASK, logprobs=True, **{name: count})
        assert caught.value.param == name
    with pytest.raises(RequestError, match="at most 20"):
        new_chat().plan(ASK, logprobs=True, **{name: 21})


def test_bytes_of_the_tokens_are_the_bytes_of_the_text(tiny: Chat) -> None:
    text = " ok 👩‍👩‍👧 né 北京\n"
    tokens = tiny.model.tokenizer.encode(text, add_special_tokens=False)
    answer = tiny.complete(ASK, force=[*tokens, 257], logprobs=True, temperature=0, max_tokens=99)
    spelt = [byte for entry in entries(answer)[:-1] for byte in entry.bytes]
    assert bytes(spelt).decode() == answer.choices[0].message.content == text
    assert entries(answer)[-1].token == "<|im_end|>"


def test_tokens_as_token_ids(tiny: Chat) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True, **GREEDY}
    choice = tiny.complete(ASK, return_tokens_as_token_ids=True, **fields).choices[0]
    assert choice.logprobs is not None
    assert [entry.token for entry in choice.logprobs.content] == [f"token_id:{i}" for i in choice.token_ids or []]
    assert all(item.token.startswith("token_id:") for e in choice.logprobs.content for item in e.top_logprobs)
    assert all(entry.bytes for entry in choice.logprobs.content if entry.token != "token_id:299")


def test_logprobs_of_a_stopped_answer_cover_every_token(tiny: Chat) -> None:
    tokens = tiny.model.tokenizer.encode("one two", add_special_tokens=False)
    answer = tiny.complete(ASK, force=tokens, stop=["e t"], logprobs=True, temperature=0, max_tokens=7)
    assert answer.text == "on"
    assert answer.usage is not None
    assert len(entries(answer)) == answer.usage.completion_tokens == 5


def test_a_stream_has_the_same_logprobs(tiny: Chat) -> None:
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, **GREEDY}
    whole = entries(tiny.complete(ASK, **fields))
    chunks = [chunk.choices[0] for chunk in tiny.stream(ASK, **fields)]
    streamed = [entry for choice in chunks if choice.logprobs for entry in choice.logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in whole], abs=1e-4)


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3])
def test_prompt_logprobs(tiny: Chat, count: int) -> None:
    answer = tiny.complete(ASK, prompt_logprobs=count, temperature=0, max_tokens=1)
    tokens = tiny.plan(ASK).prompt.token_ids
    report = answer.prompt_logprobs or []
    assert answer.usage is not None
    assert len(report) == len(tokens) == answer.usage.prompt_tokens
    assert report[0] is None
    for token, found, row in zip(tokens[1:], report[1:], direct(tiny, tokens), strict=False):
        assert found is not None
        own = found[str(token)]
        assert own.logprob == pytest.approx(row[token].item(), abs=2e-4)
        assert own.rank == 1 + int((row > row[token]).sum())
        assert own.decoded_token == tiny.model.token_text(token)
        assert set(found) == {str(token), *map(str, row.topk(count).indices.tolist())}
        assert sorted(entry.rank for entry in found.values() if entry.rank)[:count] == [*range(1, count + 1)]


ECHOED: list[tuple[dict[str, Any], int | None]] = [
    ({"echo": True, "logprobs": True, "top_logprobs": 2}, 2),
    ({"echo": True, "logprobs": True}, 0),
    ({"echo": True, "logprobs": True, "top_logprobs": 2, "prompt_logprobs": 1}, 1),
    ({"echo": True, "logprobs": True, "prompt_logprobs": 0, "top_logprobs": 2}, 0),
    ({"echo": True}, None),
    ({"logprobs": True, "top_logprobs": 2}, None),
    ({"echo": True, "logprobs": True, "top_logprobs": 2, "stream": True}, None),  # streams report no prompt
    ({"prompt_logprobs": 3}, 3),
]


@pytest.mark.parametrize(("fields", "count"), ECHOED, ids=str)
def test_echo_reports_the_prompt_as_the_answer_unless_the_request_says_how(
    tiny: Chat, fields: dict[str, Any], count: int | None
) -> None:
    assert tiny.plan(ASK, **fields).generation_config.get("prompt_logprobs") == count


def test_an_echoed_prompt_has_its_logprobs(tiny: Chat) -> None:
    answer = tiny.complete(ASK, echo=True, logprobs=True, top_logprobs=1, **GREEDY)
    assert answer.usage is not None
    assert len(answer.prompt_logprobs or []) == answer.usage.prompt_tokens
    assert tiny.complete(ASK, echo=True, **GREEDY).prompt_logprobs is None
