"""Who is asked: a server, by the openai client, or a model in this process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from chatplan.errors import EngineError, RequestError

if TYPE_CHECKING:
    from chatplan.adapters.remote.server import Server
    from chatplan.chat import Chat

__all__ = ["ModelTarget", "ServerTarget", "Target", "is_url"]


class Target(Protocol):
    """Answers requests as a stream of events in the wire format."""

    about: dict[str, str]

    def ask(self, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """The events of an answer. Raises :class:`ChatplanError`, at any event."""
        ...

    async def close(self) -> None:
        """Give back what it holds."""


def is_url(target: str) -> bool:
    """Whether it is a server's address, and not a checkpoint."""
    return target.startswith(("http://", "https://"))


class ServerTarget:
    """A server that runs. Made inside the event loop that asks it."""

    def __init__(self, url: str, server: Server, model: str) -> None:
        self.about: dict[str, str] = {"target": url, "model": model}
        self._server = server

    @classmethod
    async def connect(cls, url: str, model: str | None, api_key: str | None, timeout: float) -> ServerTarget:
        """Ask the server for its first model, unless ``model`` is the name to use.

        Raises:
            EngineError: it cannot be reached, or serves no model.
        """
        from chatplan.adapters.remote.failures import translated
        from chatplan.adapters.remote.server import Server

        plain = _plain(url)
        server = Server(url, api_key, {}, timeout)
        try:
            listed: Any = await server.get("/models")
            name = model or listed["data"][0]["id"]
        except (LookupError, TypeError) as error:
            await server.close()
            raise EngineError("its list of models is empty; name one with --model-name", param=plain) from error
        except Exception as error:
            await server.close()
            raise EngineError(str(translated(error)), param=plain) from error
        return cls(plain, server, name)

    async def ask(self, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """The events that the server sends."""
        import openai

        from chatplan.adapters.remote.failures import translated

        try:
            stream = await self._server.stream({"model": self.about["model"], **body}, f"bench-{uuid.uuid4().hex}")
            async with stream:
                async for event in stream:
                    yield event if isinstance(event, Mapping) else {}
        except (openai.OpenAIError, OSError, ValueError) as error:
            raise translated(error) from error

    async def close(self) -> None:
        """End its connections."""
        await self._server.close()


class ModelTarget:
    """A model in this process, on the engine that a server would choose."""

    def __init__(self, chat: Chat) -> None:
        self.about: dict[str, str] = {"target": chat.model.name, "model": chat.model.name, "engine": chat.engine.name}
        self._chat = chat

    @classmethod
    def load(cls, model: str, engine: str, dtype: str) -> ModelTarget:
        """Load a checkpoint.

        Raises:
            EngineError: there is none of this name, or the engine cannot run it.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        from chatplan.adapters.cli.loading import missing_folder
        from chatplan.adapters.weights import dtype_argument, likely_device
        from chatplan.chat import Chat
        from chatplan.model import ModelInfo

        missing_folder(model)
        disable_progress_bar()
        try:
            module = AutoModelForCausalLM.from_pretrained(model, device_map=likely_device(), **dtype_argument(dtype))
            tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError, AttributeError) as error:
            raise EngineError(f"cannot be loaded: {error}", param=model) from error
        info = ModelInfo.of(module.eval(), tokenizer, name=model)
        # The model is for requests alone, which lets `auto` take the engine that changes it.
        return cls(Chat(info, engine=engine, options={"serving": True}))

    async def ask(self, body: Mapping[str, Any]) -> AsyncGenerator[Mapping[str, Any], None]:
        """The chunks of the answer; leaving stops the model."""
        async with await asyncio.to_thread(self._chat.stream, dict(body)) as stream:
            async for chunk in stream:
                yield chunk.to_dict()

    async def close(self) -> None:
        """Give back what the engine holds."""
        await asyncio.to_thread(self._chat.close)


def _plain(url: str) -> str:
    """The address without a password in it."""
    import httpx

    try:
        return str(httpx.URL(url).copy_with(username=None, password=None))
    except httpx.InvalidURL as error:
        raise RequestError(f"is no address: {error}", param=url) from error
