"""A guard on the JSON that the library ``lm-format-enforcer`` writes: it would let pass some that is none."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["GuardedJson", "Place"]


class Place(NamedTuple):
    """Where in a JSON text we are: enough to refuse what the library would let pass."""

    blanks: int  # how many may follow the beginning of an object or array, a comma, or a colon
    whole: bool  # whether some number is an integer
    seen: int = 0  # blanks
    depth: int = 0
    inside: bool = False  # a string
    escape: str = ""
    last: str = ""

    def after(self, character: str) -> Place | None:
        """The next place; ``None`` if the text could not be JSON, or would have an exponent or fewer digits."""
        if self.inside:
            return self._in_string(character)
        if character == " ":
            return self._replace(seen=self.seen + 1) if self.seen < self.blanks and self.last in tuple("[{,:") else None
        if character < " " or (self.last == "," and character in "}]"):
            return None
        if not character.isdigit() and (self.last in ("-", ".") or (self.last[-1:].isdigit() and character in "eE")):
            return None
        if self.last == "-0" and character == "." and self.whole:  # where the library takes it for an integer, too
            return None
        depth = self.depth + (character in "{[") - (character in "}]")
        last = "-0" if self.last == "-" and character == "0" else character
        return self._replace(seen=0, depth=depth, inside=character == '"', last=last)

    def _in_string(self, character: str) -> Place | None:
        if self.escape == "\\":
            return self._replace(escape="u" if character == "u" else "")
        if self.escape == "u":
            return self._replace(escape="d" if character in "dD" else "")
        if self.escape == "d":  # D800 to DFFF are halves of characters
            return self._replace(escape="") if character in "01234567" else None
        if character == "\\":
            return self._replace(escape=character)
        return self._replace(inside=character != '"') if character >= " " else None

    def can_end(self) -> bool:
        """Whether all that was opened is closed."""
        return not self.depth and not self.inside and self.last not in ("", "-", ".", ",", ":")


class GuardedJson:
    """The library's parser of JSON, held to :class:`Place`; a parser itself, as far as the enforcer asks."""

    config: Any = None

    def __init__(self, parser: Any, place: Place) -> None:
        self.parser: Any = parser
        self.place: Place = place

    def add_character(self, character: str) -> GuardedJson:
        place = self.place.after(character)
        if place is None:
            raise ValueError(f"{character!r} is not JSON here")
        return GuardedJson(self.parser.add_character(character), place)

    def get_allowed_characters(self) -> str:
        allowed: str = self.parser.get_allowed_characters()
        if self.place.inside and not self.place.escape:
            return allowed
        return "".join(c for c in allowed if self.place.after(c) is not None)

    def can_end(self) -> bool:
        return self.place.can_end() and bool(self.parser.can_end())

    def shortcut_key(self) -> Any:
        return self.parser.shortcut_key()

    def cache_key(self) -> None:
        return None
