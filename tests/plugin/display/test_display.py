"""What notebooks show: tokens by probability, plans and explanations; whatever is in them stays text."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import pytest

from chatplan import Chat, ChatCompletion, RequestError
from chatplan.display import Alternative, LogprobsView, Token
from chatplan.display.tokens import visible
from chatplan.response import TokenLogprob

HOSTILE = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> {{ 7 * 7 }} </div>"
HI = [{"role": "user", "content": "Hi"}]
ALLOWED = {"div", "span", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "code"}


class Page(HTMLParser):
    """Reads HTML: its elements, which have to be closed in order, their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.open.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def titles(self) -> list[str]:
        return [value for name, value in self.attributes if name == "title"]


def entry(text: str, logprob: float, *others: tuple[str, float]) -> dict[str, Any]:
    alternatives = [{"token": other, "logprob": value, "bytes": None} for other, value in others]
    return {"token": text, "logprob": logprob, "bytes": None, "top_logprobs": alternatives}


def answer(*entries: dict[str, Any], **message: Any) -> ChatCompletion:
    choice = {"index": 0, "message": {"content": HOSTILE, **message}, "finish_reason": "stop", "stop_reason": HOSTILE,
              "logprobs": {"content": list(entries)} if entries else None}  # fmt: skip
    return ChatCompletion.model_validate({"id": "1", "created": 0, "model": HOSTILE, "choices": [choice]})


def assert_inert(html: str) -> Page:
    """Nothing but the elements and attributes of our own templates."""
    page = Page(html)
    assert set(page.elements) <= ALLOWED
    assert {name for name, _ in page.attributes} <= {"style", "title"}
    assert not [value for name, value in page.attributes if name == "style" and "url" in value]
    return page


# --- tokens -----------------------------------------------------------------------------------------------------------


def test_a_token_lists_itself_and_its_alternatives_by_probability() -> None:
    read = Token.of(TokenLogprob.model_validate(entry("b", -2.0, ("b", -2.0), ("c", -3.0), ("a", -0.2))))
    assert [item.text for item in read.listed] == ["a", "b", "c"]
    assert [item.text for item in read.alternatives] == ["a", "c"]
    assert read.probability == pytest.approx(0.1353, abs=1e-4)


def test_entropy_is_in_bits_over_the_listed_tokens_and_all_others_as_one() -> None:
    quarter = -math.log(4)
    even = Token.of(TokenLogprob.model_validate(entry("a", quarter, ("b", quarter), ("c", quarter), ("d", quarter))))
    assert even.entropy == pytest.approx(2.0)
    rest = Token.of(TokenLogprob.model_validate(entry("a", -math.log(2), ("b", quarter))))
    assert rest.entropy == pytest.approx(1.5)
    sure = Token.of(TokenLogprob.model_validate(entry("a", 0.0, ("b", -9999.0))))
    assert sure.entropy == 0.0
    assert Token("a", -0.5).entropy is None


@pytest.mark.parametrize(
    ("others", "forced"),
    [
        ([("a", 0.0), ("b", -9999.0), ("c", -9999.0)], True),
        ([("a", 0.0), ("b", -9999.0), ("c", -20.0)], False),
        ([("a", 0.0)], False),
        ([], False),
    ],
)
def test_a_token_is_forced_when_all_listed_others_are_ruled_out(others: list[tuple[str, float]], forced: bool) -> None:
    assert Token.of(TokenLogprob.model_validate(entry("a", 0.0, *others))).forced is forced


def test_what_cannot_be_seen_has_a_mark() -> None:
    assert visible("  ") == "␣␣"
    assert visible(" a b\n") == " a b⏎\n"
    assert visible("\ta\r") == "⇥\ta␍"
    assert visible("abc\u202edef\x1b\x00") == r"abc\u202edef\x1b\x00"
    assert visible("") == ""


# --- answers ----------------------------------------------------------------------------------------------------------


def test_log_probabilities_show_each_token_with_its_alternatives() -> None:
    view = answer(entry("Hi", -0.1, ("Hi", -0.1), ("Yo", -2.5)), entry("\n", 0.0, ("x", -9999.0))).show_logprobs()
    page = assert_inert(view._repr_html_())
    assert len(page.titles()) == 2
    assert "Hi 90.5 %" in page.titles()[0]
    assert "Yo 8.21 %" in page.titles()[0]
    assert "forced" in page.titles()[1]
    assert "⏎" in page.text


def test_colour_follows_probability() -> None:
    page = assert_inert(answer(entry("a", 0.0), entry("b", -9999.0)).show_logprobs()._repr_html_())
    colours = [value for name, value in page.attributes if name == "style" and "hsla" in value]
    assert ["hsla(130," in colours[0], "hsla(0," in colours[1]] == [True, True]


def test_log_probabilities_print_as_a_table() -> None:
    view = answer(entry("Hi", -0.1, ("Yo", -2.5)), entry("!", 0.0, ("x", -9999.0))).show_logprobs()
    first, hi, mark = str(view).splitlines()
    assert first == "choice 0"
    assert hi.split() == ["'Hi'", "90.5%", "0.51", "bits", "'Yo'", "8.2%"]
    assert "forced" in mark
    assert view._repr_mimebundle_() == {"text/html": view._repr_html_(), "text/plain": str(view)}


def test_an_answer_without_log_probabilities_says_what_to_ask_for() -> None:
    with pytest.raises(RequestError, match="logprobs=True") as caught:
        answer().show_logprobs()
    assert caught.value.param == "logprobs"


def test_what_a_model_writes_stays_text() -> None:
    call = {"function": {"name": HOSTILE, "arguments": HOSTILE}}
    written = answer(entry(HOSTILE, -1.0, (HOSTILE + "!", -2.0)), reasoning_content=HOSTILE, tool_calls=[call])
    page = assert_inert(written._repr_html_())
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "{{ 7 * 7 }}" in page.text
    assert HOSTILE in page.titles()[0]
    assert_inert(written.show_logprobs()._repr_html_())


def test_each_part_of_an_answer_is_shown() -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("first", "second")]
    message = {"content": "TEXT", "reasoning_content": "THOUGHT", "tool_calls": calls}
    choices = [
        {"index": 0, "message": message, "finish_reason": "stop", "stop_reason": "\n", "logprobs": None},
        {"index": 1, "message": {"content": "OTHER"}, "finish_reason": "length", "stop_reason": None,
         "logprobs": {"content": [entry("t", -math.log(2), ("u", -math.log(4)), ("v", -9999.0))]}},
    ]  # fmt: skip
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    made = ChatCompletion.model_validate({"id": "1", "created": 0, "model": "M", "choices": choices, "usage": usage})
    page = assert_inert(made._repr_html_())
    text = " ".join(page.text.split())
    for part in ("M: 11 prompt tokens, 7 of the answer", "assistant 0, finished by stop (⏎ )", "THOUGHT", "TEXT",
                 "first({})", "second({})", "assistant 1, finished by length", "OTHER", "1 tokens, one a line",
                 "t 50 % 1.50 u 25 %"):  # fmt: skip
        assert part in text, part
    assert page.text.count("one a line") == 1  # of the choice that has log-probabilities
    assert made.show_logprobs().choices.keys() == {1}
    (title,) = page.titles()
    assert title.split() == "t 50 % u 25 % entropy 1.50 bits".split()


def test_alternatives_with_the_bytes_of_half_a_character_are_told_from_the_token() -> None:
    half = {"token": "\ufffd", "logprob": -1.0, "bytes": [0xE2]}
    listed = {**half, "top_logprobs": [half, {"token": "\ufffd", "logprob": -2.0, "bytes": [0xC3]}]}
    assert Token.of(TokenLogprob.model_validate(listed)).alternatives == (Alternative("\ufffd", -2.0),)


def test_what_was_ruled_out_has_no_probability() -> None:
    token = Token("a", 0.0, (Alternative("b", -9999.0), Alternative("c", -700.0)))
    assert [other.text for other in token.possible] == ["c"]
    assert Alternative("b", -9999.0).probability == 0.0


# --- with a model -----------------------------------------------------------------------------------------------------


def test_all_choices_are_shown(tiny: Chat) -> None:
    view = tiny.complete(HI, n=3, seed=1, max_tokens=5, ignore_eos=True, logprobs=True).show_logprobs()
    assert [len(tokens) for tokens in view.choices.values()] == [5, 5, 5]
    assert "choice 2" in Page(view._repr_html_()).text


def test_tokens_that_a_constraint_forced_are_marked(tiny: Chat) -> None:
    done = tiny.complete(HI, temperature=0, logprobs=True, top_logprobs=3, guided_regex="ab[cd]", max_tokens=8)
    tokens = done.show_logprobs().choices[0]
    assert [token.forced for token in tokens[:3]] == [True, True, False]
    assert [token.text for token in tokens[:2]] == ["a", "b"]


def test_free_tokens_are_not_marked(tiny: Chat) -> None:
    done = tiny.complete(HI, temperature=0, logprobs=True, top_logprobs=3, max_tokens=6, ignore_eos=True)
    assert not any(token.forced for token in done.show_logprobs().choices[0])


def test_a_plan_shows_its_prompt_and_whose_each_part_is(tiny: Chat) -> None:
    plan = tiny.plan([{"role": "user", "content": HOSTILE}], temperature=0.5, stop=[HOSTILE])
    page = assert_inert(plan._repr_html_())
    assert HOSTILE in page.text
    assert "processor Temperature(temperature=0.5) at temperature" in page.text


def test_an_explanation_shows_each_field_its_plugin_and_its_engines(tiny: Chat) -> None:
    page = assert_inert(tiny.explain([{"role": "user", "content": HOSTILE}], user=HOSTILE, seed=3)._repr_html_())
    assert page.text.count("<script>alert(1)</script>") >= 3
    for word in ("seed", "sampling", "GenerationConfig seed=3", "continuous", "plan of request"):
        assert word in page.text


def test_pages_need_nothing_from_elsewhere(tiny: Chat) -> None:
    html = tiny.plan(HI)._repr_html_() + answer(entry("a", 0.0))._repr_html_()
    for word in ("http:", "https:", "//", "<link", "<script", "@import"):
        assert word not in html


def test_a_view_is_made_of_plain_values() -> None:
    view = answer(entry("a", 0.0)).show_logprobs()
    assert view == LogprobsView({0: (Token("a", 0.0),)})
