"""What is known of one HTTP request while it is answered: for its log line, its metrics and its trace."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chatplan.errors import RequestError

if TYPE_CHECKING:
    from chatplan.principal import Principal
    from chatplan.request import ChatCompletionRequest
    from chatplan.response import ChatCompletionChunk

__all__ = ["Record", "checked_id"]

_LONGEST_ID = 200


@dataclass(eq=False)
class Record:
    """One request. Times are those of ``time.monotonic``, in seconds."""

    request_id: str
    method: str
    path: str
    id_given: bool = False
    started: float = field(default_factory=time.monotonic)
    principal: Principal | None = None
    request: ChatCompletionRequest | None = None
    model: str | None = None
    stream: bool = False
    status: int = 0
    code: str | None = None
    param: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    first_token: float | None = None
    last_token: float | None = None
    disconnected: bool = False
    content: Any = None

    def see(self, chunk: ChatCompletionChunk) -> float | None:
        """Note when tokens come. Returns the seconds since the one before, ``None`` for the first and for no token."""
        if not has_token(chunk):
            return None
        before, self.last_token = self.last_token, time.monotonic()
        if before is None:
            self.first_token = self.last_token
            return None
        return self.last_token - before

    @property
    def seconds(self) -> float:
        """How long the request has been here."""
        return time.monotonic() - self.started

    @property
    def ttft(self) -> float | None:
        """Seconds from the request to its first token."""
        return None if self.first_token is None else self.first_token - self.started


def has_token(chunk: ChatCompletionChunk) -> bool:
    """Whether a chunk holds some of the answer, and not only a role."""
    for choice in chunk.choices:
        delta = choice.delta
        if delta.content or delta.reasoning_content or delta.tool_calls or choice.finish_reason or choice.logprobs:
            return True
    return False


def checked_id(value: str, param: str) -> str:
    """A request id that a header and a log line can hold.

    Raises:
        RequestError: it is empty, too long, or has characters that are not printable ASCII.
    """
    if not 0 < len(value) <= _LONGEST_ID or not (value.isascii() and value.isprintable()):
        raise RequestError(f"should be 1 to {_LONGEST_ID} printable ASCII characters", param=param)
    return value
