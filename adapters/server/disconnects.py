"""Work that nobody waits for any more is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

__all__ = ["ClientGone", "unless_gone"]

_T = TypeVar("_T")


class ClientGone(Exception):
    """The client closed the connection before its answer."""


async def unless_gone(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """What ``work`` gives; it is cancelled when the client closes the connection. The body must be read.

    Raises:
        ClientGone: the client is gone.
    """
    tasks = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientGone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
