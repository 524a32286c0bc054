"""Calls read piece by piece: whatever the pieces are, the same calls, with arguments as they were written."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest

from chatplan.calls import CallStream, arguments_text, call_deltas
from chatplan.response import ToolCallDelta

Calls = list[tuple[int, str, str]]


def pieces(text: str, seed: int) -> Iterator[str]:
    """Seed 0 is the text as a whole, 1 its characters, all others random pieces, some of them empty."""
    if seed < 2:
        yield from [text] if seed == 0 else text
        return
    chance = random.Random(seed)
    while text:
        length = chance.randint(0, 7)
        yield text[:length]
        text = text[length:]


def together(deltas: Iterable[ToolCallDelta]) -> Calls:
    """The calls, each with its number. Id, type and name come once, with the first piece of a call."""
    calls: dict[int, tuple[str, str]] = {}
    for delta in deltas:
        function = delta.function
        assert function is not None
        assert (delta.id is not None) == (delta.type is not None) == (function.name is not None)
        assert (delta.index in calls) == (function.name is None)
        name, arguments = calls.get(delta.index, (function.name or "", ""))
        calls[delta.index] = name, arguments + (function.arguments or "")
    assert list(calls) == sorted(calls)
    return [(index, *call) for index, call in calls.items()]


def read(text: str, key: str = "arguments", first: int = 0, most: int | None = None) -> tuple[Calls, int]:
    """The calls in ``text`` and how many of them are complete; the same however it is cut."""
    outcomes = []
    for seed in range(20):
        stream = CallStream(key, first, most)
        calls = together([delta for piece in pieces(text, seed) for delta in stream.feed(piece)])
        assert stream.begun == len(calls)
        outcomes.append((calls, stream.ended))
    assert outcomes == outcomes[:1] * len(outcomes)
    return outcomes[0]


ARGUMENTS = [
    "{}",
    "{ }",
    '{"city": "Bern"}',
    '{ "city" :\n"Bern" , "days":3.50}',  # blanks and digits as they were written
    r'{"say": "\"}{\"", "path": "C:\\"}',
    r'{"say": "\\\"}"}',
    '{"open": "{[", "close": "]}"}',
    '{"a": {"b": [{"c": {}}, []]}, "d": [[1], {"e": "}"}]}',
    '{"name": "inner", "arguments": {"x": 1}}',
    '{"text": "北京 é 👩‍👩‍👧\\u00e9"}',
    '{"a": 1, "a": 2}',
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
def test_arguments_are_what_the_model_wrote(arguments: str) -> None:
    assert read(f'{{"name": "f", "arguments": {arguments}}}') == ([(0, "f", arguments)], 1)
    assert read(f'[{{"name": "f", "arguments": {arguments}}}]') == ([(0, "f", arguments)], 1)


HEADERS = [
    '{"name": "f", "arguments": ',
    '{"name":"f","arguments":',
    '\n { "name" :\t"f" ,\n"arguments" : ',
    '{"id": "a1", "name": "f", "arguments": ',
    '{"type": "function", "name": "f", "arguments": ',
    '{"type":"function","id":"","name":"f","arguments":',
]


@pytest.mark.parametrize("header", HEADERS)
def test_a_type_or_id_may_stand_before_the_name(header: str) -> None:
    assert read(f'{header}{{"x": 1}}}}\n') == ([(0, "f", '{"x": 1}')], 1)


OTHERS = [
    '{"arguments": {"x": 1}, "name": "f"}',
    '{"name": "f", "description": "d", "arguments": {}}',
    '{"name": "f"}',
    '{"name": "f", "arguments": "{}"}',
    '{"name": "f", "arguments": [1]}',
    '{"name": "f", "parameters": {}}',
    '{"function": {"name": "f", "arguments": {}}}',
    'Then {"name": "f", "arguments": {}}',
    "",
    "[]",
]


@pytest.mark.parametrize("text", OTHERS)
def test_other_orders_and_shapes_are_left_to_the_caller(text: str) -> None:
    assert read(text) == ([], 0)


def test_the_key_of_the_arguments() -> None:
    text = '{"name": "f", "a.b": {}}'
    assert read(text, key="a.b") == ([(0, "f", "{}")], 1)
    assert read(text, key="a+b") == ([], 0)
    assert read('{"name": "f", "axb": {}}', key="a.b") == ([], 0)


TWO = [
    '[{"name": "f", "arguments": {"x": 1}}, {"name": "g", "arguments": {}}]',
    '{"name": "f", "arguments": {"x": 1}}; {"name": "g", "arguments": {}}',
    '{"name": "f", "arguments": {"x": 1}}\n{"name": "g", "arguments": {}}',
    '[{"name": "f", "arguments": {"x": 1} } , { "type": "function", "name": "g", "arguments": {}}]',
]


@pytest.mark.parametrize("text", TWO)
def test_several_calls(text: str) -> None:
    assert read(text) == ([(0, "f", '{"x": 1}'), (1, "g", "{}")], 2)
    assert read(text, first=3) == ([(3, "f", '{"x": 1}'), (4, "g", "{}")], 2)
    assert read(text, most=1) == ([(0, "f", '{"x": 1}')], 1)
    assert read(text, most=2) == read(text)


def test_a_call_in_another_order_ends_the_list() -> None:
    """The caller, who knows how many were read, takes the rest when the region closes."""
    text = '[{"name": "f", "arguments": {}}, {"arguments": {}, "name": "g"}, {"name": "h", "arguments": {}}]'
    assert read(text) == ([(0, "f", "{}")], 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"name": "f", "argu', ([], 0)),
        ('{"name": "f", "arguments": ', ([], 0)),
        ('{"name": "f", "arguments": {', ([(0, "f", "{")], 0)),
        ('{"name": "f", "arguments": {"x": "}', ([(0, "f", '{"x": "}')], 0)),
        ('{"name": "f", "arguments": {"x": 1}', ([(0, "f", '{"x": 1}')], 1)),
        ('[{"name": "f", "arguments": {}}, {"name": "g", "arguments": {"x', ([(0, "f", "{}"), (1, "g", '{"x')], 1)),
    ],
)
def test_calls_that_are_cut(text: str, expected: tuple[Calls, int]) -> None:
    assert read(text) == expected


def test_names_are_json_strings() -> None:
    assert read(r'{"name": "a\"b\u00e9\\", "arguments": {}}') == ([(0, 'a"bé\\', "{}")], 1)
    assert read('{"name": "größe-北", "arguments": {}}') == ([(0, "größe-北", "{}")], 1)


@pytest.mark.parametrize("name", [r"a\x", "a\nb"])
def test_names_that_are_no_json_are_no_calls(name: str) -> None:
    assert read(f'{{"name": "{name}", "arguments": {{}}}}') == ([], 0)


def test_arguments_come_bit_by_bit() -> None:
    stream = CallStream("arguments", 0)
    seen = [stream.feed(piece) for piece in ('{"name": "f", "argum', 'ents": ', '{"x"', ": 1", "}", "}", "\n")]
    found = [[delta.function.arguments for delta in deltas if delta.function is not None] for deltas in seen]
    assert found == [[], [], ["", '{"x"'], [": 1"], ["}"], [], []]


def test_ids_are_new_for_each_call() -> None:
    deltas = CallStream("arguments", 0).feed('{"name": "f", "arguments": {}}' * 5)
    ids = [delta.id for delta in deltas if delta.id is not None]
    assert len(set(ids)) == len(ids) == 5
    first = call_deltas(2, "f", "{}")
    assert (first.index, first.type, first.id is None) == (2, "function", False)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({}, "{}"), ({"city": "Zürich", "n": [1, None]}, '{"city": "Zürich", "n": [1, null]}'), ('{"x":1}', '{"x":1}')],
)
def test_arguments_as_text(arguments: object, text: str) -> None:
    assert arguments_text(arguments) == text


def test_reading_takes_time_in_proportion() -> None:
    """Each character is looked at once, however the arguments arrive."""
    stream = CallStream("arguments", 0)
    size = 100_000
    text = '{"name": "f", "arguments": {"x": "' + "a" * size + '"}}'
    written = "".join(
        delta.function.arguments or "" for piece in text for delta in stream.feed(piece) if delta.function is not None
    )
    assert written == '{"x": "' + "a" * size + '"}'
