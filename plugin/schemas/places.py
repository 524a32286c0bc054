"""Which part of a JSON schema a library refuses, when it does not say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from chatplan.schemas.forms import pointer
from chatplan.schemas.references import subschemas

__all__ = ["place_of"]

_DEFINITIONS = ("$defs", "definitions")


def place_of(schema: Any, works: Callable[[Any], bool], seconds: float = 0.5) -> str:
    """A JSON pointer to the smallest part of ``schema`` that fails by itself; "" for the whole.

    The definitions of the whole go along with each part. No part is tried after ``seconds``; the answer is then the
    smallest part that was seen to fail. ``works`` may raise: then the part fails.
    """
    return _Search(schema, works, time.monotonic() + seconds).smallest()


class _Search:
    def __init__(self, schema: Any, works: Callable[[Any], bool], end: float) -> None:
        self._whole, self._works, self._end = schema, works, end
        self._seen = {""}

    def smallest(self) -> str:
        place, part = "", self._whole
        while (found := next(self._failing(part, place), None)) is not None:
            place, part = found
        return place

    def _failing(self, part: Any, place: str) -> Iterator[tuple[str, Any]]:
        """The parts of a part that fail, where they lie outside of definitions first."""
        parts = sorted(self._parts(part, place), key=lambda item: item[0].split("/", 2)[1] in _DEFINITIONS)
        for where, item in parts:
            if where not in self._seen and time.monotonic() < self._end:
                self._seen.add(where)
                if self._fails(item):
                    yield where, item

    def _parts(self, part: Any, place: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(part, dict):
            return
        yield from ((pointer(place, *path), item) for path, item in subschemas(part))
        reference = part.get("$ref")
        for keyword in _DEFINITIONS:
            name = reference.removeprefix(f"#/{keyword}/") if isinstance(reference, str) else ""
            definitions = self._whole.get(keyword)
            if isinstance(definitions, dict) and name in definitions:
                yield pointer("", keyword, name), definitions[name]

    def _fails(self, part: Any) -> bool:
        definitions = {keyword: self._whole[keyword] for keyword in _DEFINITIONS if keyword in self._whole}
        try:
            return not self._works({**definitions, **part} if isinstance(part, dict) else part)
        except Exception:
            return True
