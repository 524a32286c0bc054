"""The controls: each field of the request has one, made from the schema alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import httpx
import pytest
from pydantic import Field

from chatplan import hookimpl

pytestmark = pytest.mark.dev_only

# What is typed for a kind of value, and what is sent for it.
TYPED: dict[str, tuple[str, Any]] = {
    "string": ("a \"b\"\n'c' \\ é", "a \"b\"\n'c' \\ é"),
    "strings": ("one\ntwo", ["one", "two"]),
    "integers": ("5, 6", [5, 6]),
    "integer": ("3", 3),
    "number": ("0.5", 0.5),
}


@pytest.fixture(scope="module")
def schema(tiny_site: Any) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(f"{tiny_site.url}/v1/chat/completions/schema", timeout=60).json()
    return found


def test_the_schema_says_what_is_served(schema: dict[str, Any]) -> None:
    assert schema["x-engine"] == "generate"
    assert schema["properties"]["max_tokens"]["default"] == 8
    assert schema["properties"]["slow"]["x-group"] == "slow"
    groups = [prop["x-group"] for prop in schema["properties"].values()]
    assert groups == sorted(groups, key=groups.index), "each group stands together"
    assert groups[0] == "the conversation"


def test_every_field_has_one_control_in_its_group(site: Any, schema: dict[str, Any]) -> None:
    for name, prop in schema["properties"].items():
        if name in ("messages", "stream"):
            continue
        assert site.page.locator(f'[data-group="{prop["x-group"]}"] [data-field="{name}"]').count() == 1, name
        text = site.field(name).inner_text()
        assert prop.get("description", "") in text
        assert all(plugin in text for plugin in prop["x-plugins"])
        assert all(why in text for why in prop.get("x-refused", {}).values())


@pytest.mark.slow
def test_every_control_is_seen_in_the_request_in_each_form(site: Any, schema: dict[str, Any]) -> None:
    names = [name for name in schema["properties"] if name not in ("messages", "stream")]
    bare, form = site.next_request(), 0
    while names := [name for name in names if in_form(site.field(name), form)]:
        typed = {name: change(site, name, schema["properties"][name]) for name in names}
        assert site.next_request() == bare | typed, form
        for name in names:
            site.page.click(f"[aria-label='Reset {name}']")
        assert site.next_request() == bare, form
        form += 1
    assert form > 1


@pytest.mark.slow
def test_what_is_set_goes_over_the_wire(visit: Callable[..., Any], tiny_site: Any, schema: dict[str, Any]) -> None:
    """Many values make no sense here, and are refused: so this page may have errors."""
    site = visit(tiny_site.url).open()
    names = [name for name in schema["properties"] if name not in ("messages", "stream", "slow", "fail")]
    typed = {name: change(site, name, schema["properties"][name]) for name in names}
    sent = site.send()
    assert {name: sent.get(name) for name in names} == typed
    site.page.wait_for_selector("#send:visible")
    site.page.click("#reset-all")
    site.page.click("#clear")
    assert set(site.send()) == {"messages", "stream"}


def in_form(field: Any, at: int) -> bool:
    """Whether the field has a form of this number, which it is then seen in."""
    chooser = field.locator("select.form")
    if not chooser.count():
        return at == 0
    if at < chooser.locator("option").count():
        chooser.select_option(str(at))
        return True
    return False


def change(site: Any, name: str, prop: dict[str, Any]) -> Any:
    """Gives the field a value; returns what should be sent for it."""
    field = site.field(name)
    kind = field.get_attribute("data-kind")
    if kind in ("boolean", "enum"):
        control = field.locator("select:not(.form):visible")
        option = control.locator("option").nth(1).get_attribute("value")
        control.select_option(option)
        return {"true": True, "false": False}.get(option, option.strip('"'))
    if kind == "json":
        examples = [item for item in prop.get("examples", []) if isinstance(item, (dict, list))]
        typed: Any = examples[0] if examples else {}
        field.locator("textarea:visible").fill(httpx.Request("POST", "http://a", json=typed).content.decode())
        return typed
    text, value = TYPED[kind]
    field.locator("input[type=number]:visible, textarea:visible").fill(text)
    return value


def test_a_plugins_field_appears_by_itself(visit: Callable[..., Any], serve: Any, new_chat: Any) -> None:
    with serve(new_chat(plugins=[Shout()])) as server:
        site = visit(server.url).open()
        assert site.page.locator("[data-group=shout] h3").text_content() == "shout"
        assert "How loud. Plugin: shout." in site.field("shout").text_content()
        control = site.field("shout").locator("input[type=number]")
        assert (control.get_attribute("min"), control.get_attribute("max")) == ("0", "1")
        site.set("shout", "0.25")
        assert site.next_request()["shout"] == 0.25


class Shout:
    """A plugin that has a field with all that a control needs."""

    name = "shout"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"shout": Annotated[float, Field(ge=0, le=1, description="How loud.")]}


def test_long_numbers_stay_exact(site: Any) -> None:
    site.set("seed", "9223372036854775807")
    site.page.fill("#prompt", "Hi")
    with site.page.expect_request("**/v1/chat/completions") as sent:
        site.page.press("#prompt", "Enter")
    assert '"seed":9223372036854775807' in sent.value.post_data
    site.answer()


def test_what_is_wrong_is_said_and_not_sent(site: Any) -> None:
    wrong = {"temperature": "-1", "top_p": "2", "n": "1.5", "logit_bias": "{", "stop_token_ids": "a", "tools": "{}"}
    for name, text in wrong.items():
        site.set(name, text)
        assert site.field(name).locator(".problem").inner_text(), name
        site.page.fill("#prompt", "Hi")
        site.page.press("#prompt", "Enter")
        assert site.page.locator(".turn").count() == 0
        assert site.page.locator("#status").inner_text().count(f"{name}: ") == 1
        site.page.click(f"[aria-label='Reset {name}']")


def test_fields_are_searched_and_counted(site: Any) -> None:
    site.set("temperature", "0.5")
    site.page.fill("#search", "penalty")
    names = site.page.locator(".field:visible label").all_inner_texts()
    assert {"repetition_penalty", "frequency_penalty", "presence_penalty"} <= set(names)
    assert "temperature" not in names
    site.page.fill("#search", "")
    site.page.check("#only-changed")
    assert site.page.locator(".field:visible label").all_inner_texts() == ["temperature"]
    site.page.select_option("#preset", "Given:Reproducible")
    assert site.page.locator(".field:visible label").all_inner_texts() == ["temperature", "seed"]
    assert site.page.locator('[data-group="sampling"] .count').inner_text() == "2 set"
    site.page.click("#reset-all")
    assert "temperature" not in site.next_request()


def test_an_example_is_written_as_it_is_typed(site: Any) -> None:
    control = site.field("guided_regex").locator("textarea")
    assert control.get_attribute("placeholder") == "e.g. [0-9]{4}"


def test_a_slider_sets_the_number(site: Any) -> None:
    slider = site.field("temperature").locator("input[type=range]")
    slider.focus()
    slider.press("Home")
    assert site.next_request()["temperature"] == 0
    slider.press("End")
    assert site.next_request()["temperature"] == 2


def test_fields_change_the_answer(site: Any) -> None:
    site.set("ignore_eos", "true")
    site.set("seed", "1")
    site.set("temperature", "1")
    first = site.ask("Hi")
    assert site.page.locator(".finish").last.inner_text() == "length"
    site.page.click("#clear")
    assert site.ask("Hi") == first
    site.page.click("#clear")
    site.set("seed", "2")
    assert site.ask("Hi") != first
    site.page.click("#reset-all")
    site.set("guided_choice", "yes\nno")
    assert site.ask("Hi") in ("yes", "no")
    site.set("guided_choice", "a.b")
    site.set("stop", ".")
    assert site.ask("Hi") == "a"
    assert site.page.locator(".finish").last.inner_text() == 'stop at "."'


def test_other_names_can_be_sent_too(site: Any) -> None:
    site.field("other fields").locator("textarea").fill('{"max_tokens": 2, "seed": 4}')
    site.send("Hi")
    assert site.answer() is not None
    assert site.next_request()["max_tokens"] == 2


def test_presets_set_fields_and_own_ones_are_kept(site: Any) -> None:
    site.page.select_option("#preset", "Given:Log-probabilities")
    assert site.next_request() == {"messages": [], "temperature": 0, "logprobs": True, "top_logprobs": 5,
                                   "max_tokens": 60, "stream": True}  # fmt: skip
    for name in site.page.locator("#preset optgroup[label=Given] option").all_inner_texts():
        site.page.select_option("#preset", f"Given:{name}")
        assert site.page.locator(".field.wrong").count() == 0, name
        assert len(site.next_request()) > 2, name
    site.page.click("#reset-all")
    site.set("top_k", "7")
    site.page.click("#presets summary")
    site.page.fill("#preset-name", "Mine: <b>")
    site.page.click("#preset-save")
    site.page.reload()
    site.page.wait_for_selector("body[data-ready]")
    site.page.select_option("#preset", "Own:Mine: <b>")
    assert site.next_request()["top_k"] == 7
    site.page.click("#preset-delete")
    assert site.page.locator("#preset optgroup[label=Own]").count() == 0


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_a_whole_request_is_loaded_and_shown_again(site: Any) -> None:
    request = {
        "messages": [
            {"role": "system", "content": "S"},
            {"role": "user", "content": "U"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "42", "tool_call_id": "c"},
        ],
        "stop": ["\n", "."],
        "logit_bias": {"5": 1.5},
        "early_stopping": "never",
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "slow": 0.0,
        "unknown_field": [1],
        "stream": True,
    }  # fmt: skip
    site.page.click("#tab-json")
    site.page.click(".import summary")
    site.page.fill("#import", httpx.Request("POST", "http://a", json=request).content.decode())
    site.page.click("#load")
    assert site.next_request() == request
    site.page.fill("#import", "[]")
    site.page.click("#load")
    assert "messages" in site.page.locator(".import .problem").inner_text()
