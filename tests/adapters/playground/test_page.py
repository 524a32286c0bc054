"""The page itself: its files, keys, keyboard, phones, colours."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import httpx
import pytest
from waiting import wait_until

from chatplan import AuthenticationError, Chat, Principal, hookimpl
from chatplan.adapters.playground.pages import HEADERS, STATIC

pytestmark = pytest.mark.dev_only


class Door:
    """Takes the bearer token ``good``."""

    @hookimpl
    def authenticate(self, headers: Mapping[str, str]) -> Principal | None:
        given = headers.get("authorization")
        if given is None:
            return None
        if given != "Bearer good":
            raise AuthenticationError("not valid")
        return Principal("ada")


@pytest.fixture(scope="module")
def guarded(serve: Callable[..., Any], new_chat: Callable[..., Chat]) -> Iterator[Any]:
    with serve(new_chat(plugins=[Door()], defaults={"max_tokens": 4}), root_path="/llm") as server:
        yield server


def test_anybody_may_read_the_page_and_nobody_else_is_asked_by_it(guarded: Any) -> None:
    for path in ("/playground", "/playground/js/main.js", "/playground/css/base.css", "/llm/playground/icon.svg"):
        answer = httpx.get(guarded.url + path, timeout=60)
        assert answer.status_code == 200, path
        assert {name: answer.headers[name] for name in HEADERS} == HEADERS
        again = httpx.get(guarded.url + path, headers={"If-None-Match": answer.headers["etag"]}, timeout=60)
        assert again.status_code == 304
    assert httpx.get(guarded.url + "/v1/chat/completions/schema", timeout=60).status_code == 401
    slash = httpx.get(guarded.url + "/playground/", follow_redirects=True, timeout=60)
    assert slash.url.path == "/playground"


def test_the_page_runs_its_own_files_only_and_stands_in_no_frame(guarded: Any) -> None:
    headers = httpx.get(guarded.url + "/playground", timeout=60).headers
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-cache"
    assert headers["content-type"].startswith("text/html")


def test_a_slash_at_the_end_leads_to_the_page_by_a_relative_address(guarded: Any) -> None:
    answer = httpx.get(guarded.url + "/playground/", timeout=60)
    assert (answer.status_code, answer.headers["location"]) == (308, "../playground")


def test_the_page_is_no_part_of_the_api(guarded: Any) -> None:
    opened = httpx.get(guarded.url + "/openapi.json", timeout=60, headers={"authorization": "Bearer good"})
    assert not [path for path in opened.json()["paths"] if "playground" in path]


@pytest.mark.parametrize("path", ["no.js", "../pages.py", "%2e%2e/pages.py", "js", "js/../../pages.py"])
def test_nothing_else_is_served(guarded: Any, path: str) -> None:
    answer = httpx.get(f"{guarded.url}/playground/{path}", timeout=60)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


def test_the_page_can_be_left_out(serve: Callable[..., Any], tiny: Chat) -> None:
    with serve(tiny, playground=False) as server:
        assert httpx.get(server.url + "/playground", timeout=60).status_code == 404


def test_texts_never_become_markup() -> None:
    for path in STATIC.rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
            assert word not in text, path
    for path in STATIC.rglob("*.*"):
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "http://" not in text, path
        assert "https://" not in text, path


def test_a_key_is_asked_for_and_kept_in_the_tab(visit: Callable[..., Any], guarded: Any) -> None:
    site = visit(guarded.url + "/llm").open(ready=False)
    site.page.wait_for_selector("#key:visible")
    site.page.fill("#key", "bad")
    site.page.press("#key", "Enter")
    site.page.wait_for_selector("#key-note:has-text('not taken')")
    site.page.fill("#key", "good")
    site.page.click("#key-use")
    site.page.wait_for_selector("body[data-ready]")
    assert site.ask("Hi") is not None
    site.page.wait_for_selector(".answer[data-state=done]")
    site.page.click("#tab-json")
    for form in ("curl", "Python", "JS"):
        site.page.click(f"[data-form={form}]")
        assert "good" not in site.page.locator("#snippet").inner_text()
    assert site.page.evaluate("[localStorage.length, sessionStorage.getItem('chatplan.key')]") == [0, "good"]
    assert site.page.url.endswith("/llm/playground")
    assert site.elsewhere == []


def test_it_is_painted_before_the_server_has_said_what_it_serves(visit: Callable[..., Any], tiny_site: Any) -> None:
    site = visit(tiny_site.url)
    held: list[Any] = []
    site.page.route("**/v1/chat/completions/schema", lambda route: held.append(route))
    site.page.goto(f"{tiny_site.url}/playground", wait_until="commit")
    wait_until(lambda: site.page.evaluate("performance.getEntriesByType('paint').length"))
    site.page.locator("#prompt").wait_for()
    assert site.page.locator("body[data-ready]").count() == 0
    wait_until(lambda: site.page.evaluate("true") and held)
    held[0].continue_()
    site.page.wait_for_selector("body[data-ready]")


def test_the_keyboard_is_enough(site: Any) -> None:
    keys = site.page.keyboard
    site.page.focus(".skip")
    keys.press("Enter")
    assert site.page.evaluate("document.activeElement.id") == "prompt"
    keys.type("One")
    keys.press("Shift+Enter")
    keys.type("Two")
    with site.page.expect_request("**/v1/chat/completions") as sent:
        keys.press("Enter")
    assert sent.value.post_data_json["messages"][0]["content"] == "One\nTwo"
    site.answer()
    site.page.focus("#tab-tokens")
    keys.press("ArrowRight")
    site.page.wait_for_selector(".effect")
    keys.press("ArrowRight")
    assert site.page.locator("#snippet").is_visible()


def test_everything_is_reached_by_tab_named_and_seen(site: Any) -> None:
    site.ask("Hi")
    site.page.evaluate("document.querySelector('.skip').focus()")
    seen = set()
    for _ in range(400):
        found = site.page.evaluate(LOOK)
        if found is None:
            break
        seen.add(found["id"])
        assert found["name"], found
        assert found["outline"] != "none", found
        site.page.keyboard.press("Tab")
    wanted = "compare theme preset search only-changed reset-all prompt stream explain clear send"
    assert {*wanted.split(), "A-temperature", "A-guided_json", "A-slow", "tab-tokens", "turn-on"} <= seen


LOOK = """() => {
    const node = document.activeElement;
    if (!node || node === document.body) return null;
    const label = [...(node.labels ?? [])].map((each) => each.textContent).join("");
    const name = node.getAttribute("aria-label") || label || node.textContent.trim();
    return { id: node.id, tag: node.tagName, name, outline: getComputedStyle(node).outlineStyle };
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_of_it(visit: Callable[..., Any], tiny_site: Any, scheme: str) -> None:
    site = visit(tiny_site.url, viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True).open()
    assert_fits(site)
    site.shoot(f"phone-{scheme}")
    tab = site.page.locator("#panes").get_by_role("tab")
    tab.get_by_text("Settings").click()
    site.set("guided_choice", "x" * 60)
    site.set("logprobs", "true")
    site.set("top_logprobs", "5")
    site.set("max_tokens", "300")
    assert_fits(site)
    site.page.click("#compare")
    tab.get_by_text("Chat").click()
    site.ask("y" * 300)
    assert_fits(site)
    tab.get_by_text("Inspector").click()
    for view, shown in {"tokens": "figcaption", "plan": ".effect", "json": "#snippet"}.items():
        site.page.click(f"#tab-{view}")
        site.page.locator(shown).first.wait_for()
        assert_fits(site)
    assert site.problems == []


def assert_fits(site: Any) -> None:
    width, wide = site.page.evaluate(
        "[document.documentElement.scrollWidth, [...document.querySelectorAll('body *')].filter((node) => "
        "node.checkVisibility() && !node.closest('svg') && node.getBoundingClientRect().right > 391)"
        ".map((node) => node.outerHTML.slice(0, 80))]"
    )
    assert width <= 390
    assert wide == []


def test_colours_follow_the_system_or_the_reader(visit: Callable[..., Any], tiny_site: Any) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        site = visit(tiny_site.url, color_scheme=scheme).open()
        grounds[scheme] = site.page.evaluate(GROUND)
        site.shoot(f"desktop-{scheme}")
    assert brightness(grounds["light"]) > 200
    assert brightness(grounds["dark"]) < 60
    site.page.click("#theme")
    site.page.click("#theme")
    assert site.page.evaluate(GROUND) == grounds["light"]
    site.page.reload()
    assert site.page.evaluate(GROUND) == grounds["light"]


GROUND = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"


def brightness(colour: list[int]) -> float:
    return sum(colour) / 3


@pytest.mark.model
@pytest.mark.slow
def test_a_real_model_answers(visit: Callable[..., Any], server_url: str) -> None:
    site = visit(server_url).open()
    site.page.select_option("#preset", "Given:Log-probabilities")
    site.set("max_tokens", "12")
    assert "Paris" in site.ask("What is the capital of France?")
    site.page.click("#tab-tokens")
    site.page.locator(".tokens .token", has_text="Paris").first.hover()
    assert "Paris" in site.page.get_by_role("tooltip").inner_text()
    site.shoot("real-model")
    site.page.select_option("#preset", "Given:JSON answer")
    assert json.loads(site.ask("John is 33 years old."))["age"] == 33
    assert site.problems == []
