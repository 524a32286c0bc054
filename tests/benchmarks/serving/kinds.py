"""Requests of many kinds whose answers can be told from each other's: each asks for something with its own name in it.

A kind is a function of a request's number: it returns the body, and a check that returns what is wrong with the
answer, or None. Bodies of the same number are equal, so the answers to them have to be as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from prompts import messages

__all__ = ["KINDS", "Body", "Check", "fold"]

Body = dict[str, Any]
Check = Callable[[Any], str | None]
Kind = Callable[[int], tuple[Body, Check]]


def content(answer: Any, index: int = 0) -> str:
    return answer["choices"][index]["message"]["content"] or ""


def wrong(is_right: bool, what: str) -> str | None:
    return None if is_right else what


def plain(number: int) -> tuple[Body, Check]:
    """Greedy, as long as it may be."""
    body = {"messages": messages(f"plain {number}", words=8), "temperature": 0, "max_tokens": 12, "ignore_eos": True}
    return body, lambda answer: wrong(answer["usage"]["completion_tokens"] == 12, "not 12 tokens")


def sampling(number: int) -> tuple[Body, Check]:
    """Every field of the sampler, with a seed."""
    body = {
        "messages": messages(f"sampling {number}", shared=True, words=6),
        "seed": number,
        "temperature": 0.9,
        "top_p": 0.95,
        "top_k": 40 + number % 7,
        "min_p": 0.01,
        "frequency_penalty": 0.3,
        "presence_penalty": 0.2,
        "repetition_penalty": 1.05,
        "logit_bias": {"2": -100},
        "min_tokens": 4,
        "max_tokens": 10,
    }
    return body, lambda answer: wrong(4 <= answer["usage"]["completion_tokens"] <= 10, "not 4 to 10 tokens")


def regex(number: int) -> tuple[Body, Check]:
    pattern = rf"client-{number}-[a-z]{{3,6}}"
    body = {"messages": messages(f"regex {number}", words=5), "guided_regex": pattern, "seed": number, "max_tokens": 40}
    return body, lambda answer: wrong(bool(re.fullmatch(pattern, content(answer))), f"no match of {pattern}")


def choice(number: int) -> tuple[Body, Check]:
    texts = [f"yes, {number}", f"no, {number}"]
    body = {"messages": messages(f"choice {number}", words=5), "guided_choice": texts, "temperature": 0}
    return body, lambda answer: wrong(content(answer) in texts, f"none of {texts}")


def schema(number: int) -> tuple[Body, Check]:
    fields = {"id": {"const": number}, "word": {"enum": ["red", "green", "blue"]}}
    form = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}
    body = {"messages": messages(f"schema {number}", words=5), "response_format": wanted, "max_tokens": 60, "seed": 1}
    return body, lambda answer: wrong(json.loads(content(answer)).get("id") == number, "another id")


def tool(number: int) -> tuple[Body, Check]:
    parameters = {"type": "object", "properties": {"id": {"const": number}}, "required": ["id"]}
    function = {"name": f"call_{number}", "description": "Call it.", "parameters": parameters}
    body = {
        "messages": messages(f"tool {number}", words=5),
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "required",
        "temperature": 0,
        "max_tokens": 120,
    }

    def check(answer: Any) -> str | None:
        calls = [call["function"] for call in answer["choices"][0]["message"].get("tool_calls") or ()]
        right = bool(calls) and all(call["name"] == f"call_{number}" for call in calls)
        return wrong(right and json.loads(calls[0]["arguments"])["id"] == number, "another call")

    return body, check


def logprobs(number: int) -> tuple[Body, Check]:
    """One entry for each token, with the likeliest beside it."""
    count = 5 + number % 4
    body = {
        "messages": messages(f"logprobs {number}", words=6),
        "logprobs": True,
        "top_logprobs": 3,
        "temperature": 0,
        "ignore_eos": True,
        "max_tokens": count,
    }

    def check(answer: Any) -> str | None:
        entries = answer["choices"][0]["logprobs"]["content"]
        full = len(entries) == count and all(len(entry["top_logprobs"]) == 3 for entry in entries)
        return wrong(full, f"not {count} entries of 3")

    return body, check


def several(number: int) -> tuple[Body, Check]:
    """Three choices of one request."""
    pattern = rf"{number}: [a-f]{{4}}"
    body = {"messages": messages(f"n {number}", words=6), "n": 3, "seed": number, "guided_regex": pattern}

    def check(answer: Any) -> str | None:
        texts = [content(answer, index) for index in range(len(answer["choices"]))]
        return wrong(len(texts) == 3 and all(re.fullmatch(pattern, text) for text in texts), f"not three of {pattern}")

    return body | {"max_tokens": 30}, check


def stops(number: int) -> tuple[Body, Check]:
    """The digits of the request's own number, up to a stop string that the constraint makes certain."""
    body = {
        "messages": messages(f"stops {number}", words=6),
        "guided_regex": rf"{number} [xyz]{{2}} END [a-z]{{40}}",
        "stop": [" END"],
        "temperature": 0,
        "max_tokens": 60,
    }

    def check(answer: Any) -> str | None:
        right = re.fullmatch(rf"{number} [xyz]{{2}}", content(answer)) is not None
        return wrong(right and answer["choices"][0]["stop_reason"] == " END", "not cut at the stop string")

    return body, check


KINDS: dict[str, Kind] = {
    kind.__name__: kind for kind in (plain, sampling, regex, choice, schema, tool, logprobs, several, stops)
}


def fold(chunks: list[Any]) -> Any:
    """The answer that a stream of chunks adds up to, as far as the checks look at it."""
    choices: dict[int, Any] = {}
    answer: Any = {"id": None, "usage": None}
    for chunk in chunks:
        answer["id"], answer["usage"] = chunk["id"], chunk.get("usage") or answer["usage"]
        for piece in chunk["choices"]:
            empty = {"message": {"content": "", "tool_calls": []}, "logprobs": {"content": []}}
            add(choices.setdefault(piece["index"], empty), piece)
    return answer | {"choices": [choices[index] for index in sorted(choices)]}


def add(choice: Any, piece: Any) -> None:
    """Add a chunk's part of one choice to it."""
    message, delta = choice["message"], piece["delta"]
    message["content"] += delta.get("content") or ""
    for call in delta.get("tool_calls") or ():
        if call["index"] == len(message["tool_calls"]):
            message["tool_calls"].append({"function": {"name": "", "arguments": ""}})
        function = message["tool_calls"][call["index"]]["function"]
        for name in ("name", "arguments"):
            function[name] += call["function"].get(name) or ""
    choice["logprobs"]["content"] += (piece.get("logprobs") or {}).get("content") or []
    for name in ("finish_reason", "stop_reason"):
        choice[name] = piece.get(name) or choice.get(name)
