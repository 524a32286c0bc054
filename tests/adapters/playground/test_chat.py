"""Talking to a model by the page."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import expect

pytestmark = pytest.mark.dev_only


def test_a_message_is_sent_and_answered_in_pieces(site: Any) -> None:
    site.set("temperature", "0")
    site.set("ignore_eos", "true")
    assert site.send("Hi") == {
        "temperature": 0,
        "ignore_eos": True,
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
    }
    streamed = site.answer()
    assert streamed
    site.page.click("#tab-json")
    assert "events" in site.page.locator(".received summary").inner_text()
    site.page.click("#clear")
    site.page.uncheck("#stream")
    assert "stream" not in site.send("Hi")
    assert site.answer() == streamed
    site.shoot("chat")


def test_stopping_keeps_what_came_and_ends_the_work(site: Any, tiny_site: Any) -> None:
    for name, value in {"slow": "0.05", "max_tokens": "500", "ignore_eos": "true", "temperature": "1"}.items():
        site.set(name, value)
    site.send("Talk")
    expect(site.page.locator(".answer .text").last).to_have_text(re.compile(".{4,}", re.DOTALL), timeout=60_000)
    site.page.keyboard.press("Escape")
    site.page.wait_for_selector(".answer[data-state=stopped]")
    tiny_site.wait_idle(60)
    kept = site.answer()
    assert 3 < len(kept) < 400
    assert site.next_request()["messages"][1] == {"role": "assistant", "content": kept}


def test_messages_are_edited_deleted_and_asked_again(site: Any) -> None:
    site.set("temperature", "0")
    site.page.click(".system summary")
    site.page.fill("#system", "Be brief.")
    site.ask("One")
    site.page.locator(".turn.user").get_by_text("Edit").click()
    site.page.fill(".editor", "Two")
    site.page.press(".editor", "Enter")
    assert site.page.evaluate("document.activeElement.id") == "transcript", "the keyboard stays where it was"
    with site.page.expect_request("**/v1/chat/completions") as sent:
        site.page.locator(".turn.user").get_by_text("Retry").click()
    assert sent.value.post_data_json["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Two"},
    ]
    site.answer()
    site.page.locator(".turn.answer").get_by_text("Delete").click()
    assert [each["content"] for each in site.next_request()["messages"]] == ["Be brief.", "Two"]
    site.page.click("#clear")
    assert [each["content"] for each in site.next_request()["messages"]] == ["Be brief."]


def test_all_choices_are_shown_and_one_goes_on(site: Any) -> None:
    site.set("n", "3")
    site.set("seed", "5")
    site.ask("Hi")
    texts = site.page.locator(".choice .text").all_inner_texts()
    assert len(texts) == 3
    site.page.locator("[data-choice='2'] input[type=radio]").check()
    assert site.next_request()["messages"][1]["content"] == site.page.locator("[data-choice='2'] .text").text_content()


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_model_writes_is_text(site: Any, stream: bool) -> None:
    hostile = "<img src=x onerror=window.hit=1><script>window.hit=1</script>&lt;b&gt;"
    site.page.set_checked("#stream", stream)
    site.page.locator("[data-side=A] [data-field=guided_choice] textarea").fill(hostile)
    for name, value in {"max_tokens": "200", "logprobs": "true", "top_logprobs": "2", "temperature": "0"}.items():
        site.set(name, value)
    assert site.ask(hostile) == hostile
    site.page.click("#tab-json")
    site.page.click(".received summary")
    site.page.click("#tab-tokens")
    site.page.locator(".tokens .token").first.hover()
    site.page.click("#tab-plan")
    site.page.wait_for_selector(".effect")
    assert site.page.locator("#transcript img, #transcript script, #inspector img, #inspector script").count() == 0
    assert site.page.evaluate("window.hit") is None


def test_a_refusal_names_the_field_and_points_at_it(visit: Callable[..., Any], tiny_site: Any) -> None:
    site = visit(tiny_site.url).open()
    site.set("guided_regex", "[0-9")
    site.send("Hi")
    site.page.wait_for_selector(".answer[data-state=failed]")
    assert "guided_regex" in site.page.locator(".answer .problem").inner_text()
    assert site.field("guided_regex").locator("textarea").get_attribute("aria-invalid") == "true"
    assert "regex" in site.field("guided_regex").locator(".problem").inner_text()


def test_a_failure_in_mid_stream_is_told(visit: Callable[..., Any], tiny_site: Any) -> None:
    site = visit(tiny_site.url).open()
    site.set("fail", "true")
    site.send("Hi")
    site.page.wait_for_selector(".answer[data-state=failed]")
    text = site.page.locator(".answer .problem").inner_text()
    assert "the model failed" in text
    assert "secret" not in text


def test_reasoning_is_folded_and_tool_calls_are_shown(site: Any) -> None:
    site.page.evaluate(
        """async () => {
        const { Answer } = await import(new URL("playground/js/answer.js", location.href));
        const { Conversation } = await import(new URL("playground/js/conversation.js", location.href));
        const { Transcript } = await import(new URL("playground/js/transcript.js", location.href));
        const answer = new Answer("A", "{}"), talk = new Conversation();
        const piece = (delta, finish = null) =>
          answer.receive(JSON.stringify({ choices: [{ index: 0, delta, finish_reason: finish }] }));
        piece({ reasoning_content: "Let me " }); piece({ reasoning_content: "think." });
        piece({ tool_calls: [{ index: 0, id: "c1", type: "function", function: { name: "weather", arguments: "" } }] });
        piece({ tool_calls: [{ index: 0, function: { arguments: '{"city": ' } }] });
        piece({ tool_calls: [{ index: 0, function: { arguments: '"Paris"}' } }] }, "tool_calls");
        answer.end("done");
        talk.turns.push({ answers: { A: answer } });
        new Transcript(document.querySelector("#transcript"), talk, {}).render();
        window.messages = talk.messages("A");
        }"""
    )
    assert site.page.locator(".reasoning").get_attribute("open") is None
    assert site.page.locator(".reasoning .thought").text_content() == "Let me think."
    assert '"name": "weather"' in site.page.locator(".calls").inner_text()
    call = site.page.evaluate("window.messages")[0]["tool_calls"][0]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
