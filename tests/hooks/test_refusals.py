"""Bad values are errors that name the field, before anything is generated."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan import Chat, RequestError, UnsupportedFieldError

ASK = [{"role": "user", "content": "Hi"}]
BAD: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.01}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"top_k": 1.5}, "top_k"),
    ({"min_p": -0.1}, "min_p"),
    ({"min_p": 1.1}, "min_p"),
    ({"presence_penalty": 2.1}, "presence_penalty"),
    ({"frequency_penalty": -2.1}, "frequency_penalty"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"n": 0}, "n"),
    ({"n": 21}, "n"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_completion_tokens": -1}, "max_completion_tokens"),
    ({"max_tokens": 2000}, "max_tokens"),
    ({"max_completion_tokens": 2000}, "max_completion_tokens"),
    ({"min_tokens": -1}, "min_tokens"),
    ({"min_tokens": 6, "max_tokens": 5}, "min_tokens"),
    ({"min_tokens": 2, "allowed_token_ids": [257], "max_tokens": 5}, "min_tokens"),
    ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
    ({"stop": ""}, "stop"),
    ({"stop": ["a", ""]}, "stop"),
    ({"stop": ["x"] * 65}, "stop"),
    ({"stop_token_ids": [300]}, "stop_token_ids"),
    ({"logit_bias": {"300": 1}}, "logit_bias"),
    ({"logit_bias": {"one": 1}}, "logit_bias"),
    ({"allowed_token_ids": [300]}, "allowed_token_ids"),
    ({"allowed_token_ids": []}, "allowed_token_ids"),
    ({"bad_words": [""]}, "bad_words"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"prompt_logprobs": 21}, "prompt_logprobs"),
    ({"prompt_logprobs": -2}, "prompt_logprobs"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"length_penalty": 2.0}, "length_penalty"),
    ({"early_stopping": True}, "early_stopping"),
    ({"use_beam_search": True, "top_p": 0.5}, "top_p"),
    ({"use_beam_search": True, "top_k": 5}, "top_k"),
    ({"use_beam_search": True, "min_p": 0.5}, "min_p"),
    ({"continue_final_message": True}, "continue_final_message"),
    ({"documents": [{"text": 1}]}, "documents"),
    ({"model": "another"}, "model"),
    ({"request_id": ""}, "request_id"),
    ({"seed": 2**63}, "seed"),
    ({"no_such_field": 1}, "no_such_field"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages"),
    ({"stream": True}, "stream"),
    ({"messages": []}, "messages"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
]


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:50])
def test_a_bad_value_names_its_field(tiny: Chat, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        tiny.complete({"messages": ASK, "max_tokens": 8, **fields} if "max_completion_tokens" not in fields
                      else {"messages": ASK, **fields})  # fmt: skip
    error = caught.value
    assert (error.param or "").startswith(param)
    assert str(error).startswith(f"{error.param}: ")
    assert error.to_dict()["error"]["param"] == error.param
    assert error.status == (404 if param == "model" else 400)


def test_in_a_list_the_error_names_the_request(tiny: Chat) -> None:
    with pytest.raises(RequestError) as caught:
        tiny.complete_batch([ASK, {"messages": ASK, "temperature": -1}])
    assert caught.value.param == "[1].temperature"


def test_a_field_without_a_plugin_is_refused(new_chat: Any) -> None:
    chat = new_chat(disable=["penalties"])
    with pytest.raises(UnsupportedFieldError) as caught:
        chat.complete(ASK, presence_penalty=1.0)
    assert caught.value.param == "presence_penalty"
