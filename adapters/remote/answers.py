"""What servers answer, as chunks of ours: every server leaves out, adds or renames something."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from chatplan.errors import EngineError
from chatplan.plan import GenerationPlan
from chatplan.response import ChatCompletionChunk, Usage

__all__ = ["Reader"]

_REASONS = {
    "eos_token": "stop",
    "stop_sequence": "stop",
    "function_call": "tool_calls",
    **{name: name for name in ("stop", "length", "tool_calls", "abort")},
}


class Reader:
    """Reads the answer to one plan.

    Attributes:
        usage: the tokens it took, as the server last said.
        pieces: chunks with some of the answer so far.
    """

    def __init__(self, plan: GenerationPlan, created: int) -> None:
        self.usage: Usage | None = None
        self.pieces: int = 0
        self._plan, self._created = plan, created
        request = plan.request
        self._id = f"chatcmpl-{plan.request_id}" if "request_id" in request.model_fields_set else ""
        options = request.stream_options
        self._counts = options is not None and options.continuous_usage_stats
        self._begun: set[int] = set()
        self._finished: set[int] = set()
        self._stated: dict[str, Any] = {}

    # --- a whole answer ----------------------------------------------------------------------------------------------

    def whole(self, data: Any) -> Iterator[ChatCompletionChunk]:
        """The chunks that a whole answer is the fold of. Raises :class:`EngineError` for what is no answer."""
        if not isinstance(data, Mapping) or not isinstance(data.get("choices"), list):
            raise EngineError("the server's answer is no chat completion", code="upstream_answer")
        choices = [self._piece(choice, "message") for choice in data["choices"]]
        yield self._chunk(data, choices)
        yield from self.end(data)

    # --- a stream ----------------------------------------------------------------------------------------------------

    def piece(self, data: Any) -> ChatCompletionChunk | None:
        """One event of a stream; ``None`` for one that says nothing but the usage, which :meth:`end` gives."""
        if not isinstance(data, Mapping):
            raise EngineError("the server's stream is none of chat completions", code="upstream_answer")
        self._note(data)
        choices = [self._piece(choice, "delta") for choice in data.get("choices") or ()]
        if not choices:
            return None
        self.pieces += 1
        return self._chunk(data, choices, data.get("usage") if self._counts else None)

    def end(self, data: Mapping[str, Any] | None = None) -> Iterator[ChatCompletionChunk]:
        """The chunk with the usage.

        Raises:
            EngineError: the answer ended too early, or has fewer choices than the request asks for.
        """
        if data is not None:
            self._note(data)
        wanted = self._plan.request.n
        if self._begun - self._finished or len(self._finished) != wanted:
            raise EngineError(f"the server finished {len(self._finished)} of {wanted} choices", code="upstream_answer")
        chunk = self._chunk(self._stated, [], self._stated.get("usage"))
        self.usage = chunk.usage
        if chunk.usage is not None or chunk.prompt_logprobs is not None:
            yield chunk

    # --- parts -------------------------------------------------------------------------------------------------------

    def _note(self, data: Mapping[str, Any]) -> None:
        """What belongs to the answer as a whole."""
        for name in ("id", "created", "model", "usage", "prompt_logprobs"):
            if data.get(name) is not None:
                self._stated[name] = data[name]

    def _chunk(self, data: Mapping[str, Any], choices: list[Any], usage: Any = None) -> ChatCompletionChunk:
        self._id = self._id or data.get("id") or f"chatcmpl-{self._plan.request_id}"
        fields = {
            "id": self._id,
            "created": data.get("created") or self._created,
            "model": data.get("model") or self._plan.model,
            "choices": choices,
        }
        if usage is not None:
            fields["usage"] = usage
        for name in ("prompt_logprobs",) if not choices else ("prompt_token_ids",):
            if data.get(name) is not None:
                fields[name] = data[name]
        try:
            return ChatCompletionChunk.model_validate(fields)
        except ValidationError as error:
            raise EngineError(f"the server's answer cannot be read: {error}", code="upstream_answer") from error

    def _piece(self, choice: Mapping[str, Any], key: str) -> dict[str, Any]:
        index = choice.get("index") or 0
        found: dict[str, Any] = {"index": index, "delta": self._delta(choice.get(key) or {}, index)}
        if choice.get("logprobs"):
            found["logprobs"] = {"content": self._logprobs(choice["logprobs"].get("content") or [])}
        if choice.get("token_ids") is not None:
            found["token_ids"] = choice["token_ids"]
        if choice.get("finish_reason") is not None:
            self._finished.add(index)
            found |= self._end_of(choice, bool(found["delta"].get("tool_calls")))
        return found

    def _delta(self, message: Mapping[str, Any], index: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if index not in self._begun:
            self._begun.add(index)
            found["role"] = message.get("role") or "assistant"
        if message.get("content") is not None:
            found["content"] = message["content"]
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning and self._plan.request.include_reasoning:
            found["reasoning_content"] = reasoning
        calls = message.get("tool_calls")
        if calls:
            calls = [calls] if isinstance(calls, Mapping) else calls
            found["tool_calls"] = [_call(call, position) for position, call in enumerate(calls)]
        return found

    def _logprobs(self, entries: list[Any]) -> list[Any]:
        """No more alternatives than asked for."""
        most = self._plan.request.top_logprobs or 0
        if most < 0:
            return entries
        return [{**entry, "top_logprobs": (entry.get("top_logprobs") or [])[:most]} for entry in entries]

    def _end_of(self, choice: Mapping[str, Any], calls: bool) -> dict[str, Any]:
        stated = choice["finish_reason"]
        reason = _REASONS.get(stated, "abort")
        if calls and reason == "stop" and isinstance(self._plan.request.tool_choice, str):
            reason = "tool_calls"
        return {"finish_reason": reason, "stop_reason": self._stop_reason(choice) if reason != "abort" else stated}

    def _stop_reason(self, choice: Mapping[str, Any]) -> Any:
        """SGLang's ``matched_stop`` is also the token that ends every answer."""
        if "matched_stop" not in choice:
            return choice.get("stop_reason")
        stop = choice["matched_stop"]
        return stop if isinstance(stop, str) or stop in self._plan.request.stop_token_ids else None


def _call(call: Mapping[str, Any], position: int) -> dict[str, Any]:
    function = {name: value for name, value in (call.get("function") or {}).items() if value is not None}
    if not isinstance(function.get("arguments", ""), str):
        function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    index = call.get("index")
    found: dict[str, Any] = {"index": position if index is None else index, "function": function}
    if call.get("id"):
        found |= {"id": call["id"], "type": "function"}
    return found
