"""Tools for models whose chat template knows none: a system prompt that describes them, and calls as text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["as_plain_messages", "is_about_calls", "with_tool_prompt"]

_PROMPT = """You can call these functions:

<tools>
{tools}
</tools>

To call one, write its name and arguments as JSON inside <tool_call> tags:

<tool_call>
{{"name": "the function's name", "arguments": {{"argument": "value"}}}}
</tool_call>

The results come back inside <tool_response> tags."""


def with_tool_prompt(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], role: str = "system"
) -> list[dict[str, Any]]:
    """``messages`` with the description of ``tools``.

    It is the end of the system message, or one of its own; for ``role="user"``, the beginning of the first message of
    the user. Without tools nothing is added.
    """
    copies = [dict(message) for message in messages]
    if not tools:
        return copies
    text = _PROMPT.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if role == "user":
        first = next((message for message in copies if message["role"] == "user"), None)
        if first is not None:
            first["content"] = f"{text}\n\n{first['content']}"
            return copies
    if not copies or copies[0]["role"] != role:
        return [{"role": role, "content": text}, *copies]
    copies[0]["content"] = f"{copies[0]['content']}\n\n{text}"
    return copies


def is_about_calls(message: Mapping[str, Any]) -> bool:
    """Whether a message calls tools or brings a result."""
    return message["role"] in ("tool", "function") or bool(message.get("tool_calls") or message.get("function_call"))


def as_plain_messages(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Earlier calls and their results as text, as the prompt above asks for them; content is plain text throughout."""
    plain: list[dict[str, Any]] = []
    for message in messages:
        is_result = message["role"] in ("tool", "function")
        written = _result(message) if is_result else _with_calls(message)
        if is_result and plain and plain[-1].get("results"):
            plain[-1]["content"] += f"\n{written['content']}"
        else:
            plain.append({**written, "results": is_result})
    return [{key: value for key, value in message.items() if key != "results"} for message in plain]


def _result(message: Mapping[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}


def _with_calls(message: Mapping[str, Any]) -> dict[str, Any]:
    calls: list[Any] = list(message.get("tool_calls") or ())
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    texts = [message["content"], *map(_call, calls)]
    kept = {key: value for key, value in message.items() if key not in ("tool_calls", "function_call")}
    return {**kept, "content": "\n".join(text for text in texts if text)}


def _call(call: Mapping[str, Any]) -> str:
    function = call.get("function") or {"name": call["custom"]["name"], "arguments": {"input": call["custom"]["input"]}}
    arguments = function["arguments"]
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'<tool_call>\n{{"name": {json.dumps(function["name"])}, "arguments": {written}}}\n</tool_call>'
