"""The inspector: tokens, plan, JSON and programs; and two settings side by side."""

from __future__ import annotations

import subprocess
from typing import Any

import forked
import pytest

pytestmark = pytest.mark.dev_only


def test_tokens_are_coloured_and_say_what_else_could_stand_there(site: Any) -> None:
    for name, value in {"ignore_eos": "true", "seed": "1", "temperature": "1"}.items():
        site.set(name, value)
    site.page.click("#turn-on")
    assert site.next_request()["top_logprobs"] == 5
    site.ask("Hi")
    site.page.click("#tab-tokens")
    tokens = site.page.locator(".tokens .token")
    assert tokens.count() == 8
    chances = tokens.evaluate_all("nodes => nodes.map(node => Number(node.style.getPropertyValue('--p')))")
    colours = tokens.evaluate_all("nodes => nodes.map(node => getComputedStyle(node).backgroundColor)")
    assert len({round(chance, 1) for chance in chances}) > 1
    assert len(set(colours)) > 1
    tip = site.page.get_by_role("tooltip")
    tokens.nth(2).hover()
    assert tip.is_visible()
    assert tip.locator("li").count() >= 5
    assert "%" in tip.inner_text()
    site.page.mouse.move(700, 400)
    assert not tip.is_visible()
    tokens.nth(0).focus()
    site.page.keyboard.press("ArrowRight")
    assert tip.is_visible()
    assert "Token 2" in tip.inner_text()
    assert tokens.nth(1).get_attribute("aria-describedby") == "tooltip"
    assert "bits" in site.page.locator("figcaption").inner_text()
    assert site.page.locator(".entropy .dot").count() == 8
    site.shoot("tokens")


def test_tokens_that_a_constraint_forced_are_marked(site: Any) -> None:
    site.set("guided_regex", "a b[cd]")
    site.page.click("#turn-on")
    site.ask("Hi")
    site.page.click("#tab-tokens")
    tokens = site.page.locator(".tokens .token")
    assert tokens.all_inner_texts()[:3] == ["a", "·", "b"]
    marks = tokens.evaluate_all("nodes => nodes.map(node => node.matches('.forced'))")
    assert marks[:4] == [True, True, True, False]
    tokens.first.hover()
    assert "forced" in site.page.get_by_role("tooltip").inner_text()
    assert "ruled out" in site.page.get_by_role("tooltip").inner_text()


def test_entropy_counts_what_is_not_listed_as_one_more(site: Any) -> None:
    bits = site.page.evaluate(
        """async () => {
        const { entropy } = await import(new URL("playground/js/tokens.js", location.href));
        const at = (...chances) => chances.map((chance, n) => ({ token: String(n), logprob: Math.log(chance) }));
        return [at(0.5, 0.5), at(1), at(0.25, 0.25, 0.25), at(0.5, 0.25)].map((top_logprobs) =>
          entropy({ ...top_logprobs[0], top_logprobs }));
        }"""
    )
    assert bits == pytest.approx([1, 0, 2, 1.5])


def test_the_plan_names_field_plugin_and_effect(site: Any) -> None:
    site.set("temperature", "0.5")
    site.set("slow", "0.01")
    site.page.fill("#prompt", "Hi")
    site.page.click("#explain")
    site.page.wait_for_selector(".effect")
    assert site.page.locator("#tab-plan").get_attribute("aria-selected") == "true"
    effect = site.page.locator(".effect[data-field=temperature]").inner_text()
    assert "Plugin sampling" in effect
    assert "Temperature(temperature=0.5)" in effect
    assert "Plugin slow" in site.page.locator(".effect[data-field=slow]").inner_text()
    assert site.page.locator(".turn").count() == 0, "nothing is sent"
    site.shoot("plan")


def test_two_settings_side_by_side(site: Any) -> None:
    site.set("seed", "1")
    site.page.click("#compare")
    assert "alike" in site.page.locator("#differences").inner_text()
    site.set("guided_choice", "yes", "B")
    assert "guided_choice" in site.page.locator("#differences").inner_text()
    bodies: list[Any] = []
    site.page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    site.send("Hi")
    site.answer()
    assert sorted("guided_choice" in body for body in bodies) == [False, True]
    assert all(body["seed"] == 1 for body in bodies)
    assert site.page.locator("[aria-label='answer B'] .text").inner_text() == "yes"
    assert site.page.locator(".exchange").count() == 2
    site.send("And now?")
    site.answer()
    assert [body["messages"][1]["content"] == "yes" for body in bodies[2:]] == [
        "guided_choice" in b for b in bodies[2:]
    ]
    site.page.click("#side-a")
    assert site.field("seed").is_visible()
    site.shoot("compare")


def test_what_is_wrong_on_one_side_is_said_there(site: Any) -> None:
    site.set("seed", "1")
    site.page.click("#compare")
    site.set("top_p", "0.5", "B")
    site.page.click("#side-a")
    site.set("max_tokens", "0")
    site.page.click("#side-b")
    assert "seed" not in site.page.locator("#differences").inner_text(), "what can be read is compared"
    site.page.fill("#search", "top")
    site.page.fill("#prompt", "Hi")
    site.page.press("#prompt", "Enter")
    assert site.page.locator("#status").inner_text() == "Error: max_tokens: should be 1 or more"
    assert site.field("max_tokens", "A").is_visible()
    assert site.page.input_value("#search") == ""
    assert site.page.locator("[data-side=B] .wrong").count() == 0
    assert site.page.locator(".turn").count() == 0


HARD = 'It\'s "$HOME" `id` $(id) \\n \\\\ %s !! é 👍\n\'\'\'\n""" # *'


def fill_hard(site: Any, stream: bool) -> None:
    site.page.set_checked("#stream", stream)
    site.set("temperature", "0")
    site.set("guided_choice", HARD.replace("\n", " "))
    site.set("max_tokens", "200")
    site.page.fill("#prompt", HARD)
    site.page.click("#tab-json")


def test_the_form_of_the_next_request_is_marked(site: Any) -> None:
    site.page.click("#tab-json")
    marks = site.page.locator("[data-form]")
    assert [each.get_attribute("aria-pressed") for each in marks.all()] == ["true", "false", "false", "false"]


@pytest.mark.parametrize("stream", [True, False])
def test_the_copied_curl_runs(site: Any, stream: bool) -> None:
    fill_hard(site, stream)
    site.page.click("[data-form=curl]")
    answer = run(["bash", "-c", site.page.locator("#snippet").text_content()])
    assert ("data: [DONE]" in answer) == stream
    assert stream or "It's" in answer


@pytest.mark.parametrize("stream", [True, False])
def test_the_copied_python_runs(site: Any, stream: bool) -> None:
    fill_hard(site, stream)
    site.page.click("[data-form=Python]")
    code = site.page.locator("#snippet").text_content()
    assert "extra_body" in code
    done = forked.run(["-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    answer = done.stdout
    assert (answer.strip() == HARD.replace("\n", " ").strip()) == stream


def test_the_copied_javascript_is_the_request(site: Any) -> None:
    fill_hard(site, False)
    site.page.click("[data-form=JS]")
    code = site.page.locator("#snippet").text_content()
    expected = site.next_request()
    with site.page.expect_request("**/v1/chat/completions") as sent:
        site.page.evaluate(f"(async () => {{ {code} }})()")
    assert sent.value.post_data_json == expected


def test_copy_puts_it_on_the_clipboard(site: Any) -> None:
    site.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    fill_hard(site, False)
    site.page.click("[data-form=curl]")
    site.page.click("#copy")
    site.page.wait_for_selector("#status:has-text('Copied')")
    assert site.page.evaluate("navigator.clipboard.readText()") == site.page.locator("#snippet").text_content()


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
