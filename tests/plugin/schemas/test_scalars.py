"""Numbers, constants, strings and formats: what a rewritten schema lets through is what the schema says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from chatplan.schemas.formats import DEFINED, ENFORCED, PATTERNS

Judges = Callable[[Any], Callable[[Any], bool]]
Rows = list[tuple[Any, list[Any], list[Any]]]  # schema, valid, invalid

STR: dict[str, Any] = {"type": "string"}
INT: dict[str, Any] = {"type": "integer"}
ARRAY: dict[str, Any] = {"type": "array"}
OLD = {"$schema": "http://json-schema.org/draft-04/schema#"}

NUMBERS: Rows = [
    ({"maximum": 5, "exclusiveMaximum": True, "type": "integer", **OLD}, [4, -5], [5, 6]),
    ({"minimum": 1.5, "exclusiveMinimum": True, "type": "number", **OLD}, [1.6, 2], [1.5, 1]),
    ({"minimum": 5, "exclusiveMinimum": False, "type": "integer", **OLD}, [5], [4]),
    ({**INT, "minimum": 2, "exclusiveMinimum": 3}, [4], [2, 3]),
    ({**INT, "minimum": 3, "exclusiveMinimum": 2}, [3], [2]),
    ({**INT, "minimum": -3, "maximum": 12}, [-3, 0, 12], [-4, 13, 1.5]),
    ({"type": "number", "minimum": 0.5, "maximum": 2.25}, [0.5, 1, 1.25, 2.2, 2.25], [0.4, 2.26, 3, -1]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, [0.5, 0.01, 0.99], [0, 1, 1.5, -0.5]),
    ({"type": "number", "exclusiveMaximum": 0.25}, [0.2, 0.24, -1], [0.25, 0.3, 1]),
    ({**INT, "multipleOf": 3}, [0, 3, -6, 300], [1, 4]),
    ({"type": "number", "multipleOf": 0.25}, [0.25, 0.5, 1, 1.75], [0.1, 0.3]),
    ({**INT, "allOf": [{"multipleOf": 4}, {"multipleOf": 6}]}, [0, 12, 24], [4, 6]),
    ({**INT, "multipleOf": 5, "minimum": 7, "maximum": 20}, [10, 15, 20], [5, 8, 25]),
    ({"minimum": 3}, [3, 3.5, "a", None], [2, 2.9]),
    ({**INT, "maximum": 2**70}, [1, -5, 10**15], ["a"]),
    ({**INT, "minimum": 2**53 + 1}, [2**53 + 10], [5, 2**53]),
    ({"enum": [1.0, "a", None]}, [1, "a", None], [2, True, "1"]),
    ({"const": 2.0}, [2], [3, "2"]),
    ({"const": 1.5}, [1.5], [1, 2]),
    ({"const": [1.0, {"k": 2.0}]}, [[1, {"k": 2}]], [[1], [1, {"k": 3}]]),
    ({"const": False}, [False], [0, True]),
    ({"const": 0}, [0], [False, None]),
    ({"enum": [[], {}, True]}, [[], {}, True], [False, [1], {"p": 1}]),
    ({**STR, "enum": ["a", 1]}, ["a"], [1, "b"]),
    ({"enum": ["é", '"\\\n']}, ["é", '"\\\n'], ["e", '"']),
    ({"type": ["integer", "null"]}, [1, None], [1.5, "a"]),
    ({"type": "number"}, [1, 1.5, -2], ["a", True]),
    (True, [1, "a", None, [], {"p": 1}], []),
    ({}, [1, "a", None, [], {"p": 1}], []),
    ({"anyOf": [False, INT]}, [1], ["a"]),
    ({**ARRAY, "items": True}, [[1, "a"]], [1]),
    ({"title": "t", "description": "d", "default": 3, "examples": ["x"], "x-own": {"type": 3}, **INT}, [1], ["a"]),
    ({"contentEncoding": "base64", "contentMediaType": "text/html", **STR}, ["!"], [1]),
]  # fmt: skip
STRINGS: Rows = [
    ({**STR, "pattern": "^ab$"}, ["ab"], ["abc", "xab", ""]),
    ({**STR, "pattern": "ab"}, ["ab", "xaby"], ["a", "ba"]),
    ({**STR, "pattern": "^a|b$"}, ["ax", "xb"], ["xax", "bx"]),
    ({**STR, "pattern": "^(?:a|bc)+$"}, ["a", "abc"], ["", "b"]),
    ({**STR, "pattern": "^[0-9]{3}-[a-z]+$"}, ["123-ab"], ["12-a", "123-"]),
    ({**STR, "pattern": r"^[^\s]+$"}, ["ab"], ["a b", "\t", ""]),
    ({**STR, "pattern": r"^\u0041\x42$"}, ["AB"], ["ab", "A"]),
    ({**STR, "pattern": "^a{2}$"}, ["aa"], ["a", "aaa", "a{2}"]),
    ({**STR, "pattern": "^a.c$"}, ["abc", "aéc"], ["a\nc", "ac"]),
    ({**STR, "pattern": "^a#b&c~d-e$"}, ["a#b&c~d-e"], ["ab"]),
    ({**STR, "pattern": "^[#&~|-]+$"}, ["&", "~-|"], ["a", ""]),
    ({**STR, "pattern": "^(?P<year>[0-9]{2})$"}, ["12"], ["1"]),
    ({**STR, "pattern": r"^\/\.\-\{$"}, ["/.-{"], ["/"]),
    ({**STR, "pattern": "^a+?b*?$"}, ["a", "aab"], ["b"]),
    ({**STR, "pattern": "a", "minLength": 2, "maxLength": 3}, ["ab", "bba"], ["a", "bb", "abcd"]),
    ({"pattern": "^a"}, ["ab", 1, None], ["b"]),
    ({**STR, "allOf": [{"pattern": "a"}, {"pattern": "b"}]}, ["ab", "ba"], ["a", "b"]),
    ({**STR, "minLength": 1, "maxLength": 2}, ["é", "日本"], ["", "abc"]),
    ({**STR, "minLength": 2.0}, ["ab"], ["a"]),
    ({**STR, "format": "no-such-format"}, ["a", ""], [1]),
    ({"format": "int32", **INT}, [1], ["a"]),
    ({**INT, "format": "date"}, [1], ["2024-01-01"]),
]  # fmt: skip
# Beyond what jsonschema checks by itself: the RFCs that the drafts name.
FORMATS: list[tuple[str, str, str]] = [  # format, valid, invalid
    ("date", "2024-01-31 2024-02-29 2000-02-29 1999-12-01", "2024-02-30 2023-02-29 1900-02-29 2024-13-01 2024-1-1"),
    ("time", "12:30:00Z 23:59:60Z 00:00:00.5+01:00", "24:00:00Z 12:30:00 12:60:00Z 12:30:60Z 1:00:00Z"),
    ("date-time", "2024-02-29T12:30:00Z 1990-12-31t23:59:60z", "2024-02-30T12:30:00Z 2024-02-29 2024-02-29T12:30:00"),
    ("duration", "P1D PT5M P1Y2M3DT4H P2W", "P 1D PT P1S"),
    ("email", "a@b a.b+c@d.example \"a\"@b a@[127.0.0.1]", "a a@ @b a..b@c a@b..c .a@b a@-b"),
    ("hostname", "a a-b.example 1a.b", "-a a_b a..b a-"),
    ("ipv4", "127.0.0.1 255.255.255.255 0.0.0.0", "256.0.0.1 1.2.3 1.2.3.4.5 01.2.3.4 1.2.3.x"),
    ("ipv6", ":: ::1 1:2:3:4:5:6:7:8 1::8 ::ffff:1.2.3.4 1:2:3:4:5:6:7::", "1 1:2:3 ::1::2 12345:: 1:2:3:4:5:6:7:8:9"),
    ("uri", "http://a.example/b?c=d#e urn:a:b mailto:a@b http://[::1]:80/", "a /b //a http://a\\b http://[1]/"),
    ("uri-reference", "http://a/b /b b?c #d //a ", "a\\b http://[1]/ %zz"),
    ("iri", "http://é.example/日 urn:é", "é /é"),
    ("iri-reference", "/é é#日", "\\é"),
    ("uri-template", "http://a/{b} {+b,c*} a{?d:3}", "{ {b a{}"),
    ("json-pointer", "/a/b /~0~1 /", "a /~ /~2"),
    ("relative-json-pointer", "0 1/a 0#", "/a 01/a -1 #"),
    ("uuid", "2eb8aa08-aa98-11ea-b4aa-73b441d16380", "2eb8aa08aa9811eab4aa73b441d16380 2eb8aa08-aa98-11ea"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), [*NUMBERS, *STRINGS], ids=lambda value: str(value)[:60])
def test_means_the_same(enforced: Judges, valid: Judges, schema: Any, good: list[Any], bad: list[Any]) -> None:
    said = [*((item, True) for item in good), *((item, False) for item in bad)]
    by_validator, by_tokens = valid(schema), enforced(schema)
    assert [(item, by_validator(item)) for item in good + bad] == said
    assert [(item, by_tokens(item)) for item in good + bad] == said


@pytest.mark.parametrize(("name", "good", "bad"), FORMATS, ids=[name for name, _, _ in FORMATS])
def test_formats(enforced: Judges, name: str, good: str, bad: str) -> None:
    accepts, checker = enforced({"type": "string", "format": name}), Draft202012Validator.FORMAT_CHECKER
    assert {text: accepts(text) for text in good.split()} == dict.fromkeys(good.split(), True)
    assert {text: accepts(text) for text in bad.split()} == dict.fromkeys(bad.split(), False)
    assert not accepts(1)
    assert all(checker.conforms(text, name) for text in good.split())
    if name in ("date", "ipv4", "ipv6", "uuid"):
        assert not any(checker.conforms(text, name) for text in bad.split())


def test_all_enforced_formats_are_tried() -> None:
    assert {name for name, _, _ in FORMATS} == {*PATTERNS, *ENFORCED} < DEFINED


def test_a_hostname_has_at_most_253_characters(enforced: Judges) -> None:
    accepts = enforced({"type": "string", "format": "hostname"})
    assert accepts(".".join(["a" * 49] * 5 + ["abc"]))
    assert not accepts(".".join(["a" * 49] * 5 + ["abcd"]))
