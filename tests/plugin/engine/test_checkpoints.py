"""What a checkpoint states must not get in the way of what a request decides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from chatplan import Chat, ChatCompletion, ModelInfo, RequestError, Settings
from chatplan.standin import stand_in

ASK = [{"role": "user", "content": "Hi"}]


def gpt2(positions: int = 512, **stated: Any) -> Chat:
    """A tiny GPT-2, whose positions are learned, with these values in its generation config."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=265, n_embd=32, n_layer=1, n_head=2, n_positions=positions, eos_token_id=3)
    model = GPT2LMHeadModel(config).eval()
    for name, value in stated.items():
        setattr(model.generation_config, name, value)
    return Chat(ModelInfo.of(model, stand_in().tokenizer, Settings(), "tiny"), defaults={"return_token_ids": True})


def ids(answer: ChatCompletion) -> list[list[int] | None]:
    return [choice.token_ids for choice in answer.choices]


def test_a_row_that_is_over_does_not_outgrow_the_model() -> None:
    """The short request goes on for longer than the long one has positions left."""
    chat = gpt2(positions=96)
    long = {"messages": [{"role": "user", "content": "x" * 40}], "temperature": 0, "max_tokens": 5, "ignore_eos": True}
    short = {"messages": ASK, "seed": 3, "temperature": 1.3, "max_tokens": 60, "ignore_eos": True, "logprobs": True}
    assert len(chat.plan(long).prompt.token_ids) + 60 > 96
    alone = [ids(chat.complete(request)) for request in (long, short)]
    assert [ids(answer) for answer in chat.complete_batch([long, short])] == alone
    assert len(alone[1][0] or ()) == 60


@pytest.mark.parametrize("stated", [{"max_time": 1e-9}, {"stop_strings": ["a"]}, {"min_new_tokens": 4}], ids=str)
def test_ends_that_the_checkpoint_states_do_not_apply(stated: dict[str, Any]) -> None:
    wish = {"messages": ASK, "temperature": 0, "max_tokens": 8, "ignore_eos": True}
    answer, free = gpt2(**stated).complete(wish), gpt2().complete(wish)
    assert ids(answer) == ids(free)
    assert answer.choices[0].finish_reason == "length"


def test_sampling_that_the_checkpoint_states_leaves_beams_alone() -> None:
    chat = gpt2(do_sample=True, top_k=5, top_p=0.5, transformers_version="4.51.3")
    wish = {"messages": ASK, "temperature": 1, "use_beam_search": True, "n": 2, "max_tokens": 6}
    assert ids(chat.complete(wish)) == ids(chat.complete(wish)) == ids(gpt2().complete(wish))


def test_both_the_checkpoint_and_the_tokenizer_end_an_answer() -> None:
    info = gpt2().model
    assert info.eos_token_ids == (3, info.tokenizer.eos_token_id)


def test_min_tokens_must_have_room() -> None:
    with pytest.raises(RequestError, match="min_tokens: there is room for"):
        gpt2(positions=96).plan(ASK, min_tokens=95)


@pytest.mark.parametrize("name", ["tokenize", "padding", "return_dict", "chat_template"])
def test_the_renderers_own_arguments_are_no_template_variables(name: str) -> None:
    with pytest.raises(RequestError, match=rf"chat_template_kwargs\.{name}: "):
        gpt2().plan(ASK, chat_template_kwargs={name: ["x"]})


def test_echo_reports_the_prompt_as_the_answer() -> None:
    answer = gpt2().complete(ASK, echo=True, logprobs=True, max_tokens=2)
    assert answer.usage is not None
    assert len(answer.prompt_logprobs or ()) == answer.usage.prompt_tokens


def test_a_stream_shows_the_prompts_log_probabilities() -> None:
    chunks = list(gpt2().stream(ASK, prompt_logprobs=0, max_tokens=2))
    [report] = [chunk.prompt_logprobs for chunk in chunks if chunk.prompt_logprobs is not None]
    assert len(report) == len(gpt2().plan(ASK).prompt.token_ids)
