"""One replica: the model, and the server's app without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from ray import serve
from starlette.types import Message

from chatplan.adapters.ray_serve.call import Call, respond
from chatplan.adapters.ray_serve.settings import RaySettings
from chatplan.adapters.server.app import create_app
from chatplan.adapters.server.loading import load_chat, load_plugins
from chatplan.adapters.server.logs import configure
from chatplan.adapters.server.service import Service, in_new_thread

__all__ = ["Replica"]


class Replica:
    """Ray takes it among those that answer when the model is loaded."""

    async def __init__(self, settings: RaySettings) -> None:  # type: ignore[misc]
        configure(settings)
        plugins = load_plugins(settings)
        chat = await in_new_thread(lambda: load_chat(settings, plugins))
        self._stack = AsyncExitStack()
        self._stack.callback(chat.close)
        self._app = create_app(chat, settings)
        await self._stack.enter_async_context(self._app.router.lifespan_context(self._app))
        self._name = serve.get_replica_context().replica_id.unique_id

    async def answer(self, call: Call) -> AsyncIterator[list[Message]]:
        """ASGI messages; the first piece has none, and says that this replica has the call."""
        yield []
        async for messages in respond(self._app, call):
            yield messages

    async def whole(self, call: Call) -> tuple[str, list[Message]]:
        """The replica's name, and all messages."""
        return self._name, [message async for messages in respond(self._app, call) for message in messages]

    async def check_health(self) -> None:
        """Ray replaces a replica where this raises."""
        service: Service = self._app.state.service
        service.check_health()

    async def __del__(self) -> None:
        # Ray awaits it when the replica's last request is over.
        if hasattr(self, "_stack"):
            await self._stack.aclose()
