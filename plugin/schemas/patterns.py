"""Regular expressions of JSON Schema (ECMA-262) in the dialect that llguidance reads (Rust's), and some complements."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["ANY", "either", "escaped", "length_pattern", "one_of", "other_than", "translated"]

ANY = r"(?s:.)*"
# https://262.ecma-international.org/#sec-compiletocharset: WhiteSpace and LineTerminator; "." excludes the latter.
_BLANK = r"\t\n\x0B\x0C\r \xA0\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}\x{FEFF}"
_DOT = r"[^\n\r\x{2028}\x{2029}]"
_CONTROLS = {"t": r"\t", "n": r"\n", "r": r"\r", "f": r"\x0C", "v": r"\x0B", "0": r"\x00"}
_TIMES = re.compile(r"\{(\d+)(,?)(\d*)\}")
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_LOW_HALF = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_PROPERTY = re.compile(r"[pP]\{[\w=]+\}")
_GROUP = re.compile(r"\?(?::|P?<([A-Za-z_]\w*)>|(i)([:)]))")
_CLASSES = (r"\d", r"\D", r"\w", r"\W", r"\p", r"\P")
_SPECIAL = frozenset(r"\.+*?()|[]{}^$#&-~")


_Trie = dict[str, "_Trie"]


def escaped(text: str) -> str:
    """A pattern that matches just ``text``."""
    return "".join("\\" + character if character in _SPECIAL else character for character in text)


def translated(pattern: str) -> str:
    """The pattern in Rust's dialect.

    Raises:
        ValueError: it is no pattern, or one that looks around or back, which no grammar can follow.
    """
    return _Translation(pattern).result


class _Translation:
    def __init__(self, pattern: str) -> None:
        self._text, self._at, self._open = pattern, 0, 0
        self._out: list[str] = []
        self._atom = False
        while self._at < len(pattern):
            self._step(self._take())
        if self._open:
            raise ValueError("a parenthesis is not closed")
        self.result = "".join(self._out)

    def _take(self, count: int = 1) -> str:
        if self._at + count > len(self._text):
            raise ValueError("it ends too early")
        self._at += count
        return self._text[self._at - count : self._at]

    def _put(self, text: str, atom: bool = True) -> None:
        self._out.append(text)
        self._atom = atom

    def _step(self, character: str) -> None:
        if character == "(":
            self._group()
        elif character == ")":
            self._close()
        elif character in "*+?{":
            self._repeat(character)
        elif character in "|^$":
            self._put(character, atom=False)
        elif character == "[":
            self._put(self._set())
        elif character == "\\":
            self._put(self._escape(inside=False))
        else:
            self._put(_DOT if character == "." else escaped(character))

    def _group(self) -> None:
        found = _GROUP.match(self._text, self._at)
        if self._text[self._at : self._at + 1] == "?" and not found:
            raise ValueError("it looks ahead or behind, or uses a group that is unknown")
        self._at = found.end() if found else self._at
        if found and found[3] == ")":
            return self._put("(?i)", atom=False)
        self._open += 1
        return self._put("(?i:" if found and found[2] else "(?:", atom=False)

    def _close(self) -> None:
        self._open -= 1
        if self._open < 0:
            raise ValueError("a parenthesis is closed that was not opened")
        self._put(")")

    def _repeat(self, character: str) -> None:
        found = _TIMES.match(self._text, self._at - 1) if character == "{" else None
        if character == "{" and not found:
            return self._put(r"\{")
        if not self._atom:
            raise ValueError("there is nothing to repeat")
        if found:
            self._at = found.end()
            if found[3] and int(found[1]) > int(found[3]):
                raise ValueError("a repetition's bounds are in the wrong order")
        if self._text[self._at : self._at + 1] == "?":  # how eagerly it matches is no matter
            self._at += 1
        return self._put(found[0] if found else character, atom=False)

    def _escape(self, inside: bool) -> str:
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            return self._code(int(found[1] or found[2] or found[3], 16))
        if found := _PROPERTY.match(self._text, self._at):
            self._at = found.end()
            return "\\" + found[0]
        character = self._take()
        if character in "dDwW":
            return "\\" + character
        if character in "sS":
            return f"[{'^' if character == 'S' else ''}{_BLANK}]"
        if character == "c" and re.fullmatch("[A-Za-z]", self._text[self._at : self._at + 1]):
            return rf"\x{ord(self._take()) % 32:02X}"
        return self._simple_escape(character, inside)

    def _simple_escape(self, character: str, inside: bool) -> str:
        if character == "b" and inside:
            return r"\x08"
        if character in _CONTROLS and not (character == "0" and self._text[self._at : self._at + 1].isdecimal()):
            return _CONTROLS[character]
        if character.isalnum():
            meanings = {"b": "a word boundary", "B": "a word boundary", "k": "a reference back"}
            known = meanings.get(
                character, "a reference back" if character.isdecimal() else "an escape that is unknown"
            )
            raise ValueError(f"it has {known}, \\{character}")
        return escaped(character)

    def _code(self, code: int) -> str:
        low = _LOW_HALF.match(self._text, self._at)
        if 0xD800 <= code < 0xDC00 and low:
            self._at = low.end()
            code = 0x10000 + (code - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise ValueError(f"it has a code that is no character, {code:X}")
        return rf"\x{{{code:X}}}"

    def _set(self) -> str:
        negative = self._text[self._at : self._at + 1] == "^"
        self._at += negative
        items: list[str] = []
        while (character := self._take()) != "]":
            items.append(self._member(character))
            if self._text[self._at : self._at + 1] == "-" and self._text[self._at + 1 : self._at + 2] not in ("]", ""):
                items.append(self._range(items.pop()))
        if not items and not negative:
            raise ValueError("it has a set of no characters, []")
        return f"[{'^' if negative else ''}{''.join(items)}]" if items else "(?s:.)"

    def _member(self, character: str) -> str:
        return self._escape(inside=True) if character == "\\" else escaped(character)

    def _range(self, start: str) -> str:
        self._take()
        end = self._member(self._take())
        if any(text.startswith(("[", *_CLASSES)) for text in (start, end)):
            return rf"{start}\-{end}"
        return f"{start}-{end}"


def length_pattern(least: int, most: int | None) -> str:
    """Any text of so many characters."""
    return rf"^(?s:.){{{least},{'' if most is None else most}}}$"


def one_of(texts: Iterable[str]) -> str:
    """Just these texts."""
    return f"^(?:{'|'.join(map(escaped, texts))})$"


def either(patterns: Iterable[str]) -> str:
    """A pattern that is found where one of these is."""
    return "|".join(f"(?:{pattern})" for pattern in patterns)


def other_than(texts: Iterable[str], prefixes: bool = False) -> str:
    """Every text but these; with ``prefixes``, every text that begins with none of these."""
    trie: _Trie = {}
    for text in texts:
        node = trie
        for character in text:
            node = node.setdefault(character, {})
        node[""] = {}
    return f"^{_outside(trie, prefixes)}$"


def _outside(trie: _Trie, prefixes: bool) -> str:
    first = [character for character in trie if character]
    ways = [f"[^{''.join(map(escaped, first))}]{ANY}" if first else f"(?s:.){ANY}"]
    open_ends = [character for character in first if not (prefixes and "" in trie[character])]
    ways += [escaped(character) + _outside(trie[character], prefixes) for character in open_ends]
    return f"(?:{'|'.join(ways)}){'' if '' in trie else '?'}"
