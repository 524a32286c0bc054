"""The guard on the JSON of a library that would let pass some that is none."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from chatplan.guided.json_guard import GuardedJson, Place


def follow(text: str, blanks: int = 1, whole: bool = False) -> Place | None:
    place: Place | None = Place(blanks, whole)
    for character in text:
        assert place is not None, f"refused before the end of {text!r}"
        place = place.after(character)
    return place


@pytest.mark.parametrize(
    "text",
    [
        "{}", "[]", "[[], {}]", '{"a": [1, 2.5, -3], "b": null}', "[ 1, 2]", '{"a": 1,"b":2}', '"a"', '""', "0", "-0",
        "-0.5", "10", "-7", "true", "null", '"é"', r'"\u00e9"', r'"\ud7ff"', r'"\uD0ff"', r'"\ue000"', r'"\\"', r'"\""',
        r'"a\n"', '"a  b"', '"{[,:"', r'"ud8"', '"e"', "1.5", "12.25", '["e", 1]',
    ],
)  # fmt: skip
def test_json_passes_and_may_end(text: str) -> None:
    place = follow(text)
    assert place is not None
    assert place.can_end()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[", "[1", "[1,", '{"a":', '{"a": 1', '"a', '"', '"\\', r'"\u', r'"\"', "-", "1.", "-0.", "[[]", '["]"'],
)
def test_json_that_is_not_over_may_not_end(text: str) -> None:
    place = follow(text)
    assert place is not None
    assert not place.can_end()


@pytest.mark.parametrize(
    "text",
    [
        " ", "[  ", "[1 ", "{  ", '"a" ', '{"a" ', "[1,  ", "[1,]", '{"a":1,}', "[1,2,]", "-a", "- ", "--", "1.e",
        "1. ", "1..", "1e", "1E", "0.5e", "-0e", "[\n", "\t", "[1,\n", '"\n', '"a\t', '"\x1f', r'"\ud8', r'"\uD9',
        r'"\uda', r'"\uDf',
    ],
)  # fmt: skip
def test_what_is_no_json_is_refused_at_its_last_character(text: str) -> None:
    assert follow(text) is None


def test_blanks_are_those_of_the_request() -> None:
    assert follow("[ ", blanks=0) is None
    assert follow("[1, 2, 3]", blanks=1) is not None  # each place has its own
    assert follow("[1,  2]", blanks=2) is not None
    assert follow('" "', blanks=0) is not None  # a string's own


def test_minus_nought_has_no_digits_behind_where_it_may_be_an_integer() -> None:
    assert follow("-0.", whole=True) is None
    assert follow("-10.5", whole=True) is not None
    assert follow("-5.0", whole=True) is not None
    assert follow("-0.", whole=False) is not None


class Library:
    """A parser that allows these characters, and the end if it says so."""

    def __init__(self, allowed: str, ends: bool = True) -> None:
        self.allowed, self.ends, self.added = allowed, ends, ""

    def get_allowed_characters(self) -> str:
        return self.allowed

    def add_character(self, character: str) -> Library:
        added = Library(self.allowed, self.ends)
        added.added = self.added + character
        return added

    def can_end(self) -> bool:
        return self.ends

    def shortcut_key(self) -> Any:
        return "key"


def test_both_must_allow_a_character() -> None:
    guarded = GuardedJson(Library('1[" \n'), Place(1, False))
    assert guarded.get_allowed_characters() == '1["'
    inside = guarded.add_character('"')
    assert inside.get_allowed_characters() == '1[" \n'  # the tokens' alphabet has no control characters
    code = inside.add_character("\\").add_character("u").add_character("d")
    assert GuardedJson(Library("07a8"), code.place).get_allowed_characters() == "07"
    with pytest.raises(ValueError, match="is not JSON here"):
        code.add_character("8")
    assert inside.parser.added == '"'
    assert guarded.shortcut_key() == "key"


@pytest.mark.parametrize(("text", "ends", "may"), [("1", True, True), ("1", False, False), ("[1", True, False)])
def test_both_must_allow_the_end(text: str, ends: bool, may: bool) -> None:
    place = follow(text)
    assert place is not None
    assert GuardedJson(SimpleNamespace(can_end=lambda: ends), place).can_end() is may
