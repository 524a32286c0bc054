"""From the messages of ``llm`` to those of a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from llm import Message, Tool
from llm.parts import Part, ReasoningPart, TextPart, ToolCallPart, ToolResultPart

__all__ = ["as_messages", "as_tools"]


def as_messages(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """The whole conversation, oldest message first; each result of a tool is a message."""
    found: list[dict[str, Any]] = []
    for message in messages:
        results = [part for part in message.parts if isinstance(part, ToolResultPart)]
        found += [{"role": "tool", "tool_call_id": part.tool_call_id, "content": part.output} for part in results]
        if len(results) < len(message.parts):
            found.append(_message(message.role, message.parts))
    return found


def as_tools(tools: Iterable[Tool]) -> list[dict[str, Any]]:
    """Functions, with the schemas of their parameters."""
    return [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description or "", "parameters": tool.input_schema},
        }
        for tool in tools
    ]


def _message(role: str, parts: Sequence[Part]) -> dict[str, Any]:
    message: dict[str, Any] = {"role": role, "content": "".join(p.text for p in parts if isinstance(p, TextPart))}
    reasoning = "".join(part.text for part in parts if isinstance(part, ReasoningPart))
    calls = [_call(part) for part in parts if isinstance(part, ToolCallPart)]
    return message | ({"reasoning_content": reasoning} if reasoning else {}) | ({"tool_calls": calls} if calls else {})


def _call(part: ToolCallPart) -> dict[str, Any]:
    function = {"name": part.name, "arguments": json.dumps(part.arguments)}
    return {"id": part.tool_call_id, "type": "function", "function": function}
