"""Answers to prompts, in the shape of TGI's ``/generate``."""

from __future__ import annotations

from codecs import getincrementaldecoder
from collections.abc import Iterable, Iterator
from typing import Any

from chatplan.adapters.endpoint.generation import Parameters
from chatplan.response import ChatCompletion, Choice, PromptLogprobs, TokenLogprob, TopLogprob
from chatplan.tokens import TokenReader

__all__ = ["generated"]


def generated(
    answer: ChatCompletion, prompt: str, parameters: Parameters, seed: int | None, tokens: TokenReader
) -> dict[str, Any]:
    """``{"generated_text", "details"}``: the best of the answer's choices, the others in its details."""
    best, *others = sorted(answer.choices, key=_likelihood, reverse=True)
    start = prompt if parameters.return_full_text else ""
    shape: dict[str, Any] = {"generated_text": start + (best.message.content or "")}
    if not parameters.with_details:
        return shape
    prefill = _prefill(answer, tokens)
    details = _details(best, seed, prefill, parameters, tokens)
    if others:
        details["best_of_sequences"] = [
            {
                "generated_text": start + (other.message.content or ""),
                **_details(other, seed, prefill, parameters, tokens),
            }
            for other in others
        ]
    return {**shape, "details": details}


def _likelihood(choice: Choice) -> float:
    """The mean log-probability of the choice's tokens, by which TGI ranks."""
    logprobs = [token.logprob for token in _tokens_of(choice)]
    return sum(logprobs) / max(1, len(logprobs))


def _tokens_of(choice: Choice) -> list[TokenLogprob]:
    return [] if choice.logprobs is None else choice.logprobs.content


def _details(
    choice: Choice, seed: int | None, prefill: list[dict[str, Any]], parameters: Parameters, tokens: TokenReader
) -> dict[str, Any]:
    made = _tokens_of(choice)
    details: dict[str, Any] = {
        "finish_reason": _finish_reason(choice),
        "generated_tokens": len(made),
        "seed": seed,
        "prefill": prefill,
        "tokens": list(_texts(made, tokens)),
    }
    if parameters.top_n_tokens:
        details["top_tokens"] = [_likeliest(token, parameters.top_n_tokens, tokens) for token in made]
    return details


def _finish_reason(choice: Choice) -> str:
    if choice.finish_reason == "length":
        return "length"
    return "eos_token" if choice.stop_reason is None else "stop_sequence"


def _texts(made: Iterable[TokenLogprob], tokens: TokenReader) -> Iterator[dict[str, Any]]:
    """Each token with the characters that it completes, so that the texts of all make the answer."""
    decoder = getincrementaldecoder("utf-8")("replace")
    for token in made:
        shape = _token(token, tokens)
        if not shape["special"]:
            shape["text"] = decoder.decode(bytes(token.bytes or ()))
        yield shape


def _likeliest(token: TokenLogprob, count: int, tokens: TokenReader) -> list[dict[str, Any]]:
    """Without the drawn token, if it is none of them."""
    ranked = sorted(token.top_logprobs, key=lambda other: other.logprob, reverse=True)
    return [_token(other, tokens) for other in ranked[:count]]


def _token(token: TopLogprob, tokens: TokenReader) -> dict[str, Any]:
    token_id = int(token.token.removeprefix("token_id:"))
    return {
        "id": token_id,
        "text": tokens.text(token_id),
        "logprob": token.logprob,
        "special": token_id in tokens.special,
    }


def _prefill(answer: ChatCompletion, tokens: TokenReader) -> list[dict[str, Any]]:
    """The tokens of the prompt; nothing comes before the first, so that one has no log-probability."""
    ids, scores = answer.prompt_token_ids or [], answer.prompt_logprobs
    return [
        {"id": token, "text": tokens.text(token), "logprob": _score(scores, at, token)} for at, token in enumerate(ids)
    ]


def _score(scores: PromptLogprobs | None, at: int, token: int) -> float | None:
    entry = None if scores is None else scores[at]
    return None if entry is None else entry[str(token)].logprob
