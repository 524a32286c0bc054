"""What an answer must match, as data."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["Constraint", "Kind"]

Kind = Literal["json", "regex", "choice", "grammar", "structural_tag"]


@dataclass(frozen=True)
class Constraint:
    """What the whole answer must match, from its first character to its last.

    Attributes:
        kind: what ``text`` is.
        text: the regular expression or grammar; JSON of the schema, of the list of choices, or of the structural tag.
        whitespace: a regular expression for the blanks allowed between JSON tokens.
        after: text that ends the model's reasoning; the constraint holds from there on. "" when there is none.
        thinking: whether the prompt has already opened the reasoning. If not, the answer may begin with ``before``.
        before: text that opens the reasoning.
        alternative: whether the answer may match this instead of another plugin's constraint.
        param: the request field it comes from, for errors; not part of the constraint.
    """

    kind: Kind
    text: str
    whitespace: str = "[ ]?"
    before: str = ""
    after: str = ""
    thinking: bool = False
    alternative: bool = False
    param: str = field(default="", compare=False)

    @classmethod
    def of(cls, kind: Kind, value: Any, **more: Any) -> Constraint:
        """A constraint of a schema, a list or a structural tag that is given as an object."""
        return cls(kind, json.dumps(value, ensure_ascii=False), **more)

    def problem(self) -> str | None:
        """What is wrong with the object itself, whatever its text means; ``None`` when nothing is."""
        if self.kind not in get_args(Kind):
            return f"has the kind {self.kind!r}, not one of {', '.join(get_args(Kind))}"
        if not isinstance(self.text, str):
            return f"has a text of type {type(self.text).__name__}"
        if self.kind in ("regex", "grammar"):
            return None
        try:
            value = self.value
        except ValueError:
            return "has a text that is no JSON"
        listed = isinstance(value, list) and value and all(isinstance(item, str) for item in value)
        return "needs a list of strings" if self.kind == "choice" and not listed else None

    @property
    def value(self) -> Any:
        """``text`` as an object, for the kinds that are JSON."""
        return json.loads(self.text)
