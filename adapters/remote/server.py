"""One server: its client, what it is asked, and how it is doing."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import openai

__all__ = ["Server"]

_CONNECT_SECONDS = 5.0
_FIRST_REST, _LONGEST_REST = 0.5, 30.0
_LONGEST_WAIT = 300.0
_CHAT = "/chat/completions"


class Server:
    """One base URL. Touched in one event loop only.

    Attributes:
        url: with the path in front of ``/chat/completions``.
        running: requests under way.
        rests_until: until then, by ``time.monotonic``, others are asked first.
    """

    def __init__(self, url: str, api_key: str | None, headers: Mapping[str, str], timeout: float) -> None:
        self.url: str = base_url(url)
        self.running: int = 0
        self.rests_until: float = 0.0
        self._failures = 0
        self._client = openai.AsyncOpenAI(
            base_url=self.url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS)),
        )
        # The client finds an organization in the environment, which is not for any host.
        left_out = ["OpenAI-Organization", "OpenAI-Project", *(["Authorization"] if api_key is None else [])]
        self._headers: dict[str, Any] = {**dict.fromkeys(left_out, openai.Omit()), **headers}

    async def get(self, url: str) -> Any:
        """The JSON at ``url``. Raises :class:`openai.APIError`."""
        return await self._client.get(url, cast_to=object, options={"headers": self._headers})

    async def ask(self, body: Mapping[str, Any], request_id: str) -> Any:
        """A whole answer, as JSON. Raises :class:`openai.APIError`."""
        return await self._client.post(_CHAT, cast_to=object, body=body, options=self._options(request_id))

    async def stream(self, body: Mapping[str, Any], request_id: str) -> openai.AsyncStream[object]:
        """The events of an answer, as JSON. Raises :class:`openai.APIError`, also while it is read."""
        return await self._client.post(
            _CHAT,
            cast_to=object,
            body=body,
            options=self._options(request_id),
            stream=True,
            stream_cls=openai.AsyncStream[object],
        )

    async def close(self) -> None:
        """End its connections."""
        await self._client.close()

    @contextmanager
    def asked(self) -> Iterator[None]:
        """One more request is under way."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def answered(self) -> None:
        """It works."""
        self._failures, self.rests_until = 0, 0.0

    def failed(self, wait: float | None) -> None:
        """It is passed over for a while: as long as it says, or longer with each failure in a row."""
        self._failures += 1
        rest = min(_LONGEST_REST, _FIRST_REST * 2 ** min(self._failures - 1, 10)) * random.uniform(0.75, 1.25)
        self.rests_until = time.monotonic() + max(rest, min(wait or 0.0, _LONGEST_WAIT))

    def _options(self, request_id: str) -> Any:
        return {"headers": {**self._headers, "X-Request-Id": request_id}}


def base_url(url: str) -> str:
    """``http://host:8000`` is short for ``http://host:8000/v1``; a URL with a path is taken as it is."""
    url = url.rstrip("/")
    return url if "/" in url.partition("://")[2] else f"{url}/v1"
