"""The routes of the page: static files that anybody may read. What the page asks the API needs a credential as ever."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response
from starlette.staticfiles import StaticFiles

__all__ = ["HEADERS", "STATIC", "router"]

STATIC = Path(__file__).parent / "static"
"""The folder of the page's files."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and answered 304 unless chatplan was updated
}

router: APIRouter = APIRouter(include_in_schema=False)
# Links are followed: an editable installation is made of links, one for each file.
_files = StaticFiles(directory=STATIC, follow_symlink=True)


@router.get("/playground")
async def page(http: Request) -> Response:
    """The page; its files are named relative to it, so that it works under any path."""
    return await _file("index.html", http)


@router.get("/playground/")
async def slash() -> Response:
    """Relative as well, as a proxy may show the server under another path."""
    return RedirectResponse("../playground", 308)


@router.get("/playground/{path:path}")
async def file(path: str, http: Request) -> Response:
    """A script, a style sheet or a picture."""
    return await _file(path, http)


async def _file(path: str, http: Request) -> Response:
    answer = await _files.get_response(path, http.scope)
    answer.headers.update(HEADERS)
    return answer
