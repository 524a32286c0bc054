"""Two ways to speak to a TGI server: the client that its makers published, and plain HTTP."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from importlib.util import find_spec
from typing import Any

from chatplan.adapters.tgi.errors import Refusal, Unreachable
from chatplan.errors import EngineError

__all__ = ["Client", "HttpClient", "PublishedClient", "connect"]


class Client(ABC):
    """One server. Answers have the attributes of TGI's JSON.

    Raises:
        Refusal: the server answers with an error.
        Unreachable: there is none.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        self.url: str = url.rstrip("/")
        self.headers: dict[str, str] = dict(headers)
        self.timeout: float = timeout

    @abstractmethod
    def stream(self, inputs: str, parameters: Mapping[str, Any]) -> AsyncIterator[Any]:
        """The tokens as they come; the last one has ``details``."""

    @abstractmethod
    async def whole(self, inputs: str, parameters: Mapping[str, Any]) -> Any:
        """The ``details`` of a whole answer."""

    async def close(self) -> None:  # noqa: B027  not all hold connections
        """Give back connections."""


def connect(kind: str, url: str, headers: Mapping[str, str], timeout: float) -> Client:
    """The client of a kind: ``text-generation``, ``http``, or ``auto`` for the first that is installed."""
    published = find_spec("text_generation") is not None
    if kind == "text-generation" and not published:
        raise EngineError("the package text-generation is not installed: `pip install chatplan[tgi]`")
    if kind not in ("auto", "text-generation", "http"):
        raise EngineError(f"there is no client {kind!r}; one of auto, text-generation, http")
    return (PublishedClient if published and kind != "http" else HttpClient)(url, headers, timeout)


class HttpClient(Client):
    """TGI's routes over ``httpx``, with the types of ``huggingface_hub``.

    That package's own client keeps every stream until it is closed itself, and takes 20 ms to be made; and it reaches
    no host at all when the hub is to be left alone.
    """

    def __init__(self, url: str, headers: Mapping[str, str], timeout: float) -> None:
        import httpx

        super().__init__(url, headers, timeout)
        # A queue may keep a request for as long as the time limit says; the engine sees to that.
        limits = httpx.Timeout(timeout, connect=min(timeout, 10.0))
        self._http = httpx.AsyncClient(
            headers=self.headers, timeout=limits, limits=httpx.Limits(max_connections=None, keepalive_expiry=30)
        )

    async def stream(self, inputs: str, parameters: Mapping[str, Any]) -> AsyncIterator[Any]:
        import httpx
        from huggingface_hub import TextGenerationStreamOutput

        body = {"inputs": inputs, "parameters": dict(parameters)}
        try:
            async with self._http.stream("POST", f"{self.url}/generate_stream", json=body) as response:
                if response.status_code != 200:
                    raise refusal(response.status_code, await response.aread(), response.headers)
                async for line in lines_of(response.aiter_bytes()):
                    if line.startswith(b"data:"):
                        data = json.loads(line[5:])
                        if "error" in data:
                            raise Refusal(str(data["error"]), str(data.get("error_type") or ""), 200)
                        yield TextGenerationStreamOutput.parse_obj_as_instance(data)
        except httpx.TransportError as error:
            raise broken(error) from error

    async def whole(self, inputs: str, parameters: Mapping[str, Any]) -> Any:
        import httpx

        body = {"inputs": inputs, "parameters": dict(parameters)}
        try:
            response = await self._http.post(f"{self.url}/generate", json=body)
        except httpx.TransportError as error:
            raise broken(error) from error
        if response.status_code != 200:
            raise refusal(response.status_code, response.content, response.headers)
        return details_of(response.json())

    async def close(self) -> None:
        await self._http.aclose()


def details_of(data: Any) -> Any:
    """The ``details`` of a whole answer; the hub's types leave lists within lists as they came."""
    from huggingface_hub import TextGenerationOutput, TextGenerationOutputToken

    details = TextGenerationOutput.parse_obj_as_instance(data).details
    for sample in (details, *(details.best_of_sequences or ())) if details else ():
        sample.top_tokens = [TextGenerationOutputToken.parse_obj_as_list(tops) for tops in sample.top_tokens or ()]
    return details


def broken(error: Exception) -> Exception:
    """An answer that takes too long is over; a server that cannot be reached may be there later."""
    import httpx

    late = isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout)
    return asyncio.TimeoutError() if late else Unreachable(str(error) or type(error).__name__)


async def lines_of(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines as event streams have them; text may hold other characters that Python takes for ends of lines."""
    rest = b""
    async for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
    if rest:
        yield rest


def refusal(status: int, body: bytes, headers: Mapping[str, str]) -> Refusal:
    """An error answer: JSON, plain text, or nothing at all."""
    try:
        data = json.loads(body)
    except ValueError:
        data = None
    after = headers.get("retry-after", "")
    seconds = float(after) if after.isdigit() else None
    if isinstance(data, Mapping) and "error" in data:
        return Refusal(str(data["error"]), str(data.get("error_type") or ""), status, seconds)
    return Refusal(body.decode("utf-8", "replace").strip()[:500], "", status, seconds)


class PublishedClient(Client):
    """The package ``text-generation``. It keeps HTTP's status to itself where the server sends JSON."""

    _KINDS = {  # noqa: RUF012  never changed
        "ValidationError": ("validation", 422),
        "BadRequestError": ("validation", 400),
        "OverloadedError": ("overloaded", 429),
        "RateLimitExceededError": ("overloaded", 429),
        "ShardNotReadyError": ("overloaded", 503),
        "GenerationError": ("generation", 424),
        "IncompleteGenerationError": ("incomplete_generation", 500),
        "ShardTimeoutError": ("", 504),
        "NotFoundError": ("", 404),
        # Neither of those above: 500, 502 or 503 of a proxy, most likely one that passes.
        "UnknownError": ("", 503),
    }

    async def stream(self, inputs: str, parameters: Mapping[str, Any]) -> AsyncIterator[Any]:
        try:
            async with aclosing(self._client().generate_stream(inputs, **self._arguments(parameters))) as events:
                async for event in events:
                    yield event
        except Exception as error:
            raise self._known(error) from error

    async def whole(self, inputs: str, parameters: Mapping[str, Any]) -> Any:
        extra = {name: parameters[name] for name in ("best_of", "decoder_input_details") if name in parameters}
        try:
            answer = await self._client().generate(inputs, **self._arguments(parameters), **extra)
        except Exception as error:
            raise self._known(error) from error
        return answer.details

    def _client(self) -> Any:
        from text_generation import AsyncClient  # type: ignore[import-not-found,unused-ignore]

        return AsyncClient(self.url, headers=self.headers, timeout=self.timeout)

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """As the client calls them; details it always asks for."""
        own = {"details", "best_of", "decoder_input_details"}
        arguments = {name: value for name, value in parameters.items() if name not in own}
        if "stop" in arguments:
            arguments["stop_sequences"] = arguments.pop("stop")
        return arguments

    def _known(self, error: Exception) -> Exception:
        import aiohttp

        if type(error).__module__ == "text_generation.errors":
            return Refusal(str(error), *self._KINDS.get(type(error).__name__, ("", 500)))
        if isinstance(error, asyncio.TimeoutError):
            return error
        if isinstance(error, aiohttp.ClientResponseError):  # a body that is no JSON
            return Refusal(error.message, "", error.status)
        if isinstance(error, (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)):
            return Unreachable(str(error) or type(error).__name__)
        if isinstance(error, ValueError):  # its own checks of parameters
            return Refusal(" ".join(str(error).split()), "validation", 422)
        if isinstance(error, KeyError):  # an error answer without the key `error`
            return Refusal("an error that cannot be read", "", 500)
        return error
