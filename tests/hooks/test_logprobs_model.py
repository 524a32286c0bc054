"""Log-probabilities of answers and prompts, against direct forward passes of the real model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from chatplan import ChatPipeline, ModelInfo, RequestError, Settings
from chatplan.chat import Chat

pytestmark = pytest.mark.model
ASK = [{"role": "user", "content": "Name a colour."}]
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 6}


def direct(pipe: ChatPipeline, token_ids: Sequence[int]) -> Any:
    """Log-probabilities of every token at every position, ``[tokens, vocabulary]``, from one forward pass."""
    model: Any = pipe.model
    with torch.no_grad():
        return model(torch.tensor([list(token_ids)])).logits[0].float().log_softmax(dim=-1)


def test_the_answers_logprobs_are_those_of_a_forward_pass(pipe: ChatPipeline) -> None:
    """Raw ones, whatever was done to the logits before the draw."""
    wishes: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.3, "seed": 5, "top_p": 0.9, "top_k": 50, "min_p": 0.001},
        {"temperature": 0, "repetition_penalty": 1.5, "frequency_penalty": 1.0, "logit_bias": {"30": 4}},
    ]
    fields: dict[str, Any] = {"logprobs": True, "top_logprobs": 4, "return_token_ids": True, "max_tokens": 6}
    for answer in pipe([{"messages": ASK, **wish} for wish in wishes], **fields):
        ids, prompt = answer.choices[0].token_ids, answer.prompt_token_ids
        wanted = direct(pipe, [*prompt, *ids])[len(prompt) - 1 : -1]
        content = answer.choices[0].logprobs.content
        assert len(content) == len(ids) == answer.usage.completion_tokens
        for token, entry, row in zip(ids, content, wanted, strict=True):
            assert entry.logprob == pytest.approx(row[token].item(), abs=2e-4)
            assert entry.token == pipe.chat.model.token_text(token)
            values, best = row.topk(4)
            likeliest = [i for i in best.tolist() if i != token]
            assert [item.token for item in entry.top_logprobs] == [
                pipe.chat.model.token_text(i) for i in [token, *likeliest][:4]
            ]
            assert sum(math.exp(item.logprob) for item in entry.top_logprobs) <= 1 + 1e-5
            assert max(item.logprob for item in entry.top_logprobs) <= values[0].item() + 2e-4


def test_a_greedy_token_is_the_likeliest(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, logprobs=True, top_logprobs=3, **GREEDY)
    for entry in answer.choices[0].logprobs.content:
        assert entry.logprob == max(item.logprob for item in entry.top_logprobs)
        assert [item.logprob for item in entry.top_logprobs] == sorted(
            (item.logprob for item in entry.top_logprobs), reverse=True
        )


def test_the_whole_vocabulary(pipe: ChatPipeline) -> None:
    chat = Chat(ModelInfo.of(pipe.chat.model.require_module(), pipe.chat.model.tokenizer, Settings(max_logprobs=-1)))
    answer = chat.complete(ASK, logprobs=True, top_logprobs=-1, temperature=0, max_tokens=1)
    assert answer.choices[0].logprobs is not None
    [entry] = answer.choices[0].logprobs.content
    assert len(entry.top_logprobs) == 49152
    assert sum(math.exp(item.logprob) for item in entry.top_logprobs) == pytest.approx(1, abs=1e-3)


def test_processed_logprobs_are_those_of_the_draw(pipe: ChatPipeline) -> None:
    settings = Settings(logprobs_mode="processed")
    chat = Chat(ModelInfo.of(pipe.chat.model.require_module(), pipe.chat.model.tokenizer, settings))
    answer = chat.complete(ASK, logprobs=True, top_logprobs=5, temperature=1.0, top_k=3, seed=1, max_tokens=4)
    assert answer.choices[0].logprobs is not None
    for entry in answer.choices[0].logprobs.content:
        finite = [item.logprob for item in entry.top_logprobs if item.logprob > -9999]
        assert len(finite) == 3
        assert sum(map(math.exp, finite)) == pytest.approx(1, abs=1e-4)


def test_how_many_are_reported(pipe: ChatPipeline) -> None:
    none = pipe(ASK, **GREEDY)
    assert none.choices[0].logprobs is None
    assert none.prompt_logprobs is None
    zero = pipe(ASK, logprobs=True, **GREEDY)
    assert [entry.top_logprobs for entry in zero.choices[0].logprobs.content] == [[]] * 6


@pytest.mark.parametrize("name", ["top_logprobs", "prompt_logprobs"])
def test_more_than_the_setting_allows(pipe: ChatPipeline, name: str) -> None:
    for count in (21, -1):
        with pytest.raises(RequestError, match=f"{name}: .*20") as caught:
            pipe(ASK, logprobs=True, **{name: count})
        assert caught.value.param == name


def test_bytes_of_the_tokens_are_the_bytes_of_the_text(pipe: ChatPipeline) -> None:
    text = " ok 👩‍👩‍👧 né 北京\n"
    tokens = pipe.chat.model.tokenizer.encode(text, add_special_tokens=False)
    choice = pipe(ASK, force=[*tokens, 2], logprobs=True, temperature=0, max_tokens=99).choices[0]
    spelt = [byte for entry in choice.logprobs.content[:-1] for byte in entry.bytes]
    assert bytes(spelt).decode() == choice.message.content == text
    assert choice.logprobs.content[-1].token == "<|im_end|>"


def test_tokens_as_token_ids(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, logprobs=True, top_logprobs=2, return_tokens_as_token_ids=True, return_token_ids=True, **GREEDY)
    choice = answer.choices[0]
    assert [entry.token for entry in choice.logprobs.content] == [f"token_id:{token}" for token in choice.token_ids]
    assert all(item.token.startswith("token_id:") for e in choice.logprobs.content for item in e.top_logprobs)


def test_logprobs_of_a_stopped_answer_cover_every_token(pipe: ChatPipeline) -> None:
    tokens = pipe.chat.model.tokenizer.encode("one two three", add_special_tokens=False)
    answer = pipe(ASK, force=tokens, stop=["wo"], logprobs=True, temperature=0, max_tokens=5)
    assert answer.text == "one t"
    assert len(answer.choices[0].logprobs.content) == answer.usage.completion_tokens == 2


# --- prompts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 3])
def test_prompt_logprobs(pipe: ChatPipeline, count: int) -> None:
    answer = pipe(ASK, prompt_logprobs=count, temperature=0, max_tokens=1)
    ids = pipe.plan(ASK).prompt.token_ids
    report = answer.prompt_logprobs
    assert len(report) == len(ids) == answer.usage.prompt_tokens
    assert report[0] is None
    for token, entries, row in zip(ids[1:], report[1:], direct(pipe, ids), strict=False):
        own = entries[str(token)]
        assert own.logprob == pytest.approx(row[token].item(), abs=2e-4)
        assert own.rank == 1 + int((row > row[token]).sum())
        assert own.decoded_token == pipe.chat.model.token_text(token)
        assert set(entries) == {str(token), *map(str, row.topk(count).indices.tolist())}
        assert sorted(entry.rank for entry in entries.values())[:count] == [*range(1, count + 1)]


def test_echo_reports_the_prompt_as_the_answer(pipe: ChatPipeline) -> None:
    answer = pipe(ASK, echo=True, logprobs=True, top_logprobs=1, **GREEDY)
    assert len(answer.prompt_logprobs) == answer.usage.prompt_tokens
    assert pipe(ASK, echo=True, **GREEDY).prompt_logprobs is None
