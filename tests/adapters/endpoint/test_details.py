"""What an answer to a prompt says of its tokens, of answers that are stated here."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan import ChatCompletion
from chatplan.adapters.endpoint.details import generated
from chatplan.adapters.endpoint.generation import Parameters
from chatplan.standin import stand_in

A, B, END = ord("A") - ord("!"), ord("B") - ord("!"), 257


def entry(token_id: int, logprob: float, *tops: tuple[int, float], text: bytes = b"?") -> dict[str, Any]:
    listed = [{"token": f"token_id:{other}", "logprob": value, "bytes": None} for other, value in tops]
    return {"token": f"token_id:{token_id}", "logprob": logprob, "bytes": list(text), "top_logprobs": listed}


def choice(index: int, text: str, *entries: dict[str, Any], **end: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    logprobs = {"content": list(entries)} if entries else None
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": "stop", **end}


def shape(*choices: dict[str, Any], seed: int | None = 3, more: Any = None, **parameters: Any) -> dict[str, Any]:
    given = {"id": "x", "created": 1, "model": "m", "choices": list(choices), **(more or {})}
    answer = ChatCompletion.model_validate(given)
    return generated(answer, "Once", Parameters(**parameters), seed, stand_in().tokens)


def test_the_likeliest_by_its_mean_comes_first() -> None:
    found = shape(
        choice(0, "long", entry(A, -1.0), entry(A, -1.0), entry(A, -1.0)),
        choice(1, "short", entry(B, -1.3), entry(B, -1.5)),  # the greater sum
        choice(2, "none"),
        best_of=3, do_sample=True, details=True,
    )  # fmt: skip
    assert found["generated_text"] == "none"
    assert [one["generated_text"] for one in found["details"]["best_of_sequences"]] == ["long", "short"]
    assert [one["generated_tokens"] for one in found["details"]["best_of_sequences"]] == [3, 2]


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "stop"}, "eos_token"),
        ({"finish_reason": "stop", "stop_reason": "x"}, "stop_sequence"),
    ],
)
def test_how_it_ended(end: dict[str, Any], reason: str) -> None:
    details = shape(choice(0, "A", entry(A, -1.0), **end), details=True)["details"]
    assert (details["finish_reason"], details["seed"], details["generated_tokens"]) == (reason, 3, 1)


def test_only_as_many_alternatives_as_asked_for_the_likeliest_first() -> None:
    tops = ((A, -3.0), (B, -1.0), (END, -2.0))
    details = shape(choice(0, "A", entry(A, -3.0, *tops)), top_n_tokens=2)["details"]
    (top,) = details["top_tokens"]
    assert top == [
        {"id": B, "text": "B", "logprob": -1.0, "special": False},
        {"id": END, "text": "<|im_end|>", "logprob": -2.0, "special": True},
    ]


def test_characters_come_with_the_last_of_their_tokens() -> None:
    parts = [entry(A, -1.0, text=byte) for byte in (b"\xc3", b"\xa4", b"x")]
    details = shape(choice(0, "\u00e4x", *parts, entry(END, -1.0, text=b"")), details=True)["details"]
    assert [token["text"] for token in details["tokens"]] == ["", "\u00e4", "x", "<|im_end|>"]


def test_the_first_token_of_a_prompt_has_no_log_probability() -> None:
    scores = [None, {str(B): {"logprob": -0.5}, str(A): {"logprob": -0.1}}]
    more = {"prompt_token_ids": [A, B], "prompt_logprobs": scores}
    details = shape(choice(0, "A", entry(A, -1.0)), more=more, decoder_input_details=True)["details"]
    assert details["prefill"] == [{"id": A, "text": "A", "logprob": None}, {"id": B, "text": "B", "logprob": -0.5}]
