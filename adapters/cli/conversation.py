"""What a terminal chat remembers: its messages and the fields that are set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from chatplan.errors import RequestError
from chatplan.request import parse_request
from chatplan.response import ChatCompletion

__all__ = ["Conversation"]


@dataclass
class Conversation:
    """A chat so far. ``last`` is the whole answer that came last."""

    system: str = ""
    fields: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    last: ChatCompletion | None = None

    def request(self, *more: Mapping[str, Any]) -> dict[str, Any]:
        """The request that asks for an answer to all messages and ``more``."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        return {"messages": [*system, *self.messages, *more], **self.fields}

    def answered(self, completion: ChatCompletion, whole: bool) -> None:
        """Remember an answer; of one that was stopped, half a tool call would be of no use."""
        self.last = completion
        message = completion.choices[0].message
        kept: dict[str, Any] = {"role": "assistant", "content": message.content or ""}
        if whole and message.tool_calls:
            kept["tool_calls"] = [call.to_dict() for call in message.tool_calls]
        self.messages.append(kept)

    def reset(self) -> None:
        """Forget the messages; the system prompt and the fields stay."""
        self.messages.clear()
        self.last = None

    def undo(self) -> str:
        """Forget the last question and what came after it; returns the question.

        Raises:
            RequestError: there is none.
        """
        asked = [at for at, message in enumerate(self.messages) if message.get("role") == "user"]
        if not asked:
            raise RequestError("nothing has been said yet")
        question = self.messages[asked[-1]]["content"]
        del self.messages[asked[-1] :]
        self.last = None
        return question if isinstance(question, str) else "\n".join(part["text"] for part in question)

    def load(self, data: Any) -> None:
        """Go on with a request as :meth:`request` made it.

        Raises:
            RequestError: it is none.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("messages"), list):
            raise RequestError("is no request: an object with messages is wanted")
        messages = list(data["messages"])
        if messages:
            parse_request({"messages": messages})
        begins = bool(messages) and messages[0].get("role") == "system" and isinstance(messages[0].get("content"), str)
        self.system = messages.pop(0)["content"] if begins else ""
        self.messages = [dict(message) for message in messages]
        self.fields = {name: value for name, value in data.items() if name not in ("messages", "stream")}
        self.last = None
