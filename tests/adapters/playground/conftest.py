"""The page in headless Chromium, with a real server behind it."""

from __future__ import annotations

import asyncio
import json
import shutil
from asyncio import _set_running_loop
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, sync_playwright

from chatplan import Chat

SHOTS = Path(__file__).parents[3] / "build" / "screenshots"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


class Site:
    """The open page, and what a reader does with it."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self.problems: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", lambda message: self.problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self._watch)

    def open(self, ready: bool = True) -> Site:
        self.page.goto(f"{self.url}/playground")
        if ready:
            self.page.wait_for_selector("body[data-ready]")
        return self

    def field(self, name: str, side: str = "A") -> Any:
        return self.page.locator(f'[data-side={side}] [data-field="{name}"]')

    def set(self, name: str, text: str, side: str = "A") -> None:
        """Types or selects a value in the control of the field ``name``."""
        control = self.field(name, side).locator("input[type=number]:visible, textarea:visible, select:visible").last
        if control.evaluate("node => node.tagName") == "SELECT":
            control.select_option(text)
        else:
            control.fill(text)

    def send(self, text: str = "Hi") -> dict[str, Any]:
        """Sends a message, and returns the request that went out."""
        self.page.fill("#prompt", text)
        with self.page.expect_request("**/v1/chat/completions") as sent:
            self.page.press("#prompt", "Enter")
        return body_of(sent.value)

    def ask(self, text: str = "Hi") -> str:
        """The text of the answer to a message."""
        self.send(text)
        return self.answer()

    def answer(self) -> str:
        """The last answer's text, when it is there."""
        self.page.wait_for_selector("#send:visible")
        assert self.page.locator(".answer[data-state=failed] .problem").all_inner_texts() == []
        return self.page.locator(".answer .choice .text").last.inner_text()

    def next_request(self) -> dict[str, Any]:
        self.page.click("#tab-json")
        self.page.click("[data-form=JSON]")
        found: dict[str, Any] = json.loads(self.page.locator("#snippet").inner_text())
        return found

    def shoot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png")

    def _watch(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:")):
            self.elsewhere.append(request.url)


def body_of(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(request.post_data or "")
    return found


@pytest.fixture(scope="session")
def launched() -> Iterator[tuple[Browser, asyncio.AbstractEventLoop]]:
    """One browser for all files, and the event loop that runs in this thread while it is there."""
    place = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=place, args=FLAGS)
        loop = asyncio.get_running_loop()
        _set_running_loop(None)
        yield browser, loop
        _set_running_loop(loop)
        browser.close()


@pytest.fixture(scope="module")
def browser(launched: tuple[Browser, asyncio.AbstractEventLoop]) -> Iterator[Browser]:
    """The browser. Its loop is seen only while a module here runs: other tests want loops of their own."""
    browser, loop = launched
    _set_running_loop(loop)
    yield browser
    _set_running_loop(None)


@pytest.fixture(scope="session")
def tiny_site(serve: Callable[..., Any], new_chat: Callable[..., Chat], slow_plugin: Any) -> Iterator[Any]:
    """A server with the tiny model, whose answers are short unless a request says otherwise."""
    with serve(new_chat(plugins=[slow_plugin], defaults={"max_tokens": 8})) as server:
        yield server


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Site]]:
    """Opens the page of a server: ``visit(url, color_scheme="dark")``."""
    contexts = []

    def make(url: str, **options: Any) -> Site:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **options})
        context.set_default_timeout(60_000)
        contexts.append(context)
        return Site(context.new_page(), url)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def site(visit: Callable[..., Site], tiny_site: Any) -> Iterator[Site]:
    """The page of the tiny model. In the end nothing has failed, and nobody else was asked."""
    found = visit(tiny_site.url).open()
    yield found
    assert found.problems == []
    assert found.elsewhere == []
