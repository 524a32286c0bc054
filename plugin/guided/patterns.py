"""Regular expressions that libraries read alike.

The dialects of the libraries differ in what ``\\d``, ``\\w``, ``\\s`` and ``.`` match, in anchors, flags and escapes,
and some drop silently what they do not know. :func:`portable` spells an expression with nothing but characters,
classes of characters, groups, alternatives and counts.
"""

from __future__ import annotations

import re

from chatplan.guided.backend import CannotEnforce
from chatplan.guided.vocabulary import NUL, Ranges, common, escaped, spelled, without

__all__ = ["FORMATS", "class_operator", "portable"]

_DIGITS: Ranges = ((0x30, 0x39),)
_WORDS: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_NEWLINES: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_BLANKS: Ranges = (
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029), (0x202F, 0x202F),
    (0x205F, 0x205F), (0x3000, 0x3000),
)  # fmt: skip
_CLASSES = {
    "d": (_DIGITS, False),
    "D": (_DIGITS, True),
    "w": (_WORDS, False),
    "W": (_WORDS, True),
    # What is a blank in one standard and none in another is matched neither way.
    "s": (_BLANKS, False),
    "S": ((*_BLANKS, (0x1C, 0x1F), (0x85, 0x85), (0xFEFF, 0xFEFF)), True),
}
_CONTROLS = {"n": "\n", "r": "\r", "t": "\t", "f": "\f", "v": "\v", "0": "\0"}
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}")
_COUNT = re.compile(r"\{(\d*)(?:(,)(\d*))?\}")
_GROUP = re.compile(r"\((?:\?:|\?P?<[A-Za-z_]\w*>)?(?!\?)")

_DAY = (
    r"(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|"
    r"1[0-9]|2[0-8]))|(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29)"
)
_HOUR = "(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_HOUR}:[0-5][0-9](?:\.[0-9]{{1,9}})?(?:Z|[+\-]{_HOUR})"
_BYTE = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9\-]{0,30}[A-Za-z0-9])?"
FORMATS = {
    "date": _DAY,
    "time": _TIME,
    "date-time": f"{_DAY}T{_TIME}",
    "uuid": "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}",
    "ipv4": rf"(?:{_BYTE}\.){{3}}{_BYTE}",
    "email": rf"[A-Za-z0-9_+\-]{{1,32}}(?:\.[A-Za-z0-9_+\-]{{1,15}}){{0,2}}@(?:{_LABEL}\.){{1,3}}[A-Za-z]{{2,24}}",
}
"""Formats of JSON Schema, as expressions that never match more than the format's standard allows."""


def portable(pattern: str, *, forbidden: Ranges = (), search: bool = False) -> str:
    """A regular expression in the dialect that all libraries share; it matches a whole text.

    ``\\d`` and ``\\w`` are ASCII, ``\\s`` is Unicode's, ``.`` is no end of a line. Characters in
    ``forbidden`` are never matched. With ``search``, it may match anywhere in the text unless it is anchored.

    Raises:
        CannotEnforce: lookaround, back references, flags, boundaries, anchors inside, or a mistake.
    """
    return _Reader(pattern, forbidden).read(search)


class _Reader:
    """Goes through an expression from left to right."""

    def __init__(self, text: str, forbidden: Ranges) -> None:
        self.text, self.forbidden = text, forbidden
        self.at = 0
        self.depth = 0
        self.repeatable = False
        self.branches: list[list[str]] = [[]]
        self.anchored = [[False, False]]

    def read(self, search: bool) -> str:
        while self.at < len(self.text):
            self._item(self.text[self.at])
        if self.depth:
            raise self._wrong("a group is not closed")
        anything = spelled(self.forbidden, True) + "*" if search else ""
        parts = zip(self.branches, self.anchored, strict=True)
        return "(?:" + "|".join(
            f"{'' if start else anything}{''.join(branch)}{'' if end else anything}" for branch, (start, end) in parts
        ) + ")"  # fmt: skip

    def _item(self, character: str) -> None:
        if character in "^$":
            self._anchor(character)
        elif character in "()|":
            self._structure(character)
        elif character in "*+?" or (character == "{" and _COUNT.match(self.text, self.at)):
            self._repeat()
        elif character == "[":
            self._put(self._class())
        elif character == ".":
            self.at += 1
            self._put(spelled((*_NEWLINES, *self.forbidden), True))
        else:
            self._put(self._one())

    def _put(self, text: str, repeatable: bool = True) -> None:
        self.branches[-1].append(text)
        self.repeatable = repeatable

    def _anchor(self, character: str) -> None:
        self.at += 1
        start = character == "^"
        if self.depth or (self.branches[-1] if start else self.text[self.at : self.at + 1] not in ("", "|")):
            raise self._wrong(f"{character!r} is enforced only where the expression or an alternative of it ends")
        self.anchored[-1][0 if start else 1] = True
        self.repeatable = False

    def _structure(self, character: str) -> None:
        if character == "(":
            group = _GROUP.match(self.text, self.at)
            if group is None:
                raise self._wrong(f"groups like {self.text[self.at : self.at + 4]!r} are not enforced")
            self.at, self.depth = group.end(), self.depth + 1
            return self._put("(?:", repeatable=False)
        self.at += 1
        if character == "|" and not self.depth:
            self.branches.append([])
            self.anchored.append([False, False])
            self.repeatable = False
        elif character == "|":
            self._put("|", repeatable=False)
        elif not self.depth:
            raise self._wrong("')' closes no group")
        else:
            self.depth -= 1
            self._put(")")
        return None

    def _repeat(self) -> None:
        if not self.repeatable:
            raise self._wrong("a count follows nothing that can be repeated")
        count = _COUNT.match(self.text, self.at)
        if count and not _is_count(count[1], count[3] or count[1]):
            raise self._wrong(f"the count {count[0]} is reversed, has no beginning, or is too great")
        text = count[0] if count else self.text[self.at]
        self.at += len(text)
        if self.text[self.at : self.at + 1] == "?":  # lazy: the same texts match
            self.at += 1
        self._put(text, repeatable=False)

    def _one(self) -> str:
        """One character, or an escape that stands for several."""
        code, ranges = self._character()
        if ranges is not None:
            return self._set(*ranges)
        if any(low <= code <= high for low, high in self.forbidden):
            raise self._wrong(f"the character {chr(code)!r} cannot be enforced here")
        return escaped(code, r"\.^$|?*+()[]{}") if code else spelled(NUL, False)

    def _character(self) -> tuple[int, tuple[Ranges, bool] | None]:
        character = self.text[self.at]
        self.at += 1
        if character != "\\":
            return ord(character), None
        character = self.text[self.at : self.at + 1]
        self.at += 1
        if character in _CLASSES:
            return 0, _CLASSES[character]
        return self._escape(character), None

    def _escape(self, character: str) -> int:
        if character in _CONTROLS and not (character == "0" and self.text[self.at : self.at + 1].isdigit()):
            return ord(_CONTROLS[character])
        if match := _CODE.match(self.text, self.at - 1):
            self.at = match.end()
            code = int(next(filter(None, match.groups())), 16)
            if code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
                return code
        if not character or character.isalnum():
            raise self._wrong(f"the escape \\{character} is not enforced")
        return ord(character)

    def _class(self) -> str:
        negated = self.text.startswith("[^", self.at)
        self.at += 2 if negated else 1
        plain: list[tuple[int, int]] = []
        rest: list[tuple[int, int]] | None = None  # the class takes in everything but these
        while not self.text.startswith("]", self.at) or not (plain or rest is not None):
            if self.text[self.at : self.at + 1] in ("", "]") or self.text.startswith("[:", self.at):
                raise self._wrong("a class is empty, not closed, or has a name")
            ranges, complement = self._range()
            if complement:
                rest = common(ranges, rest) if rest is not None else list(ranges)
            else:
                plain += ranges
        self.at += 1
        if rest is None:
            return self._set(plain, negated)
        return self._set(without(rest, plain), not negated)

    def _range(self) -> tuple[Ranges, bool]:
        low, ranges = self._character()
        if ranges is not None:
            return ranges
        if self.text[self.at : self.at + 1] != "-" or self.text[self.at + 1 : self.at + 2] in ("", "]"):
            return ((low, low),), False
        self.at += 1
        high, ranges = self._character()
        if ranges is not None or high < low:
            raise self._wrong("a range of characters is reversed, or has no end")
        return ((low, high),), False

    def _set(self, ranges: Ranges, negated: bool) -> str:
        kept = (*ranges, *self.forbidden) if negated else without(ranges, self.forbidden)
        if not kept and not negated:
            raise self._wrong("a class has only characters that cannot be enforced here")
        return spelled(kept, negated)

    def _wrong(self, reason: str) -> CannotEnforce:
        return CannotEnforce(f"the regular expression {self.text[:80]!r} cannot be enforced: {reason}")


def _is_count(low: str, high: str) -> bool:
    return 0 < len(low) <= 5 and len(high) <= 5 and int(low) <= int(high)


def class_operator(pattern: str) -> str | None:
    """The first ``[``, ``&&``, ``--`` or ``~~`` inside a class, which some dialects read as more than characters."""
    in_class = False
    for piece in re.findall(r"\\.|&&|--|~~|\[\^?\]?|[^\\]", pattern, re.DOTALL):
        if in_class and (piece[0] == "[" or piece in ("&&", "--", "~~")):
            return "[" if piece[0] == "[" else piece
        in_class = piece[0] == "[" or (in_class and piece != "]")
    return None
