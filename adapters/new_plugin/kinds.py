"""What the new plugin's field does at first, by its type: an effect that can be seen, and tested, on any model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["EFFECTS", "Effect", "Kind"]


class Kind(str, Enum):
    """The type of the field."""

    float = "float"
    int = "int"
    bool = "bool"
    str = "str"


@dataclass(frozen=True)
class Effect:
    """Pieces of Python for the templates.

    Attributes:
        default: the value that changes nothing.
        bounds: arguments of ``Field`` that say what is allowed.
        example, wrong: a value with an effect, and one that is refused.
        description: what the field means.
        addition: what is added to the logit of a token, of ``value`` and the token's ``text``.
        holds: what is true of the ``text`` of an answer with the example.
    """

    default: str
    bounds: tuple[str, ...]
    example: str
    wrong: str
    description: str
    addition: str
    holds: str


_LIKELIER = "How much likelier words in capitals are: what is added to their logits."
_ONLY = "Whether lower-case letters are ruled out."
_LETTERS = "Letters that are not written."

EFFECTS = {
    Kind.float: Effect(
        "0.0", ("ge=-30.0", "le=30.0"), "30.0", "99.0", _LIKELIER, "value if text.isupper() else 0.0", "text.isupper()"
    ),
    Kind.int: Effect("0", ("ge=0", "le=30"), "30", "99", _LIKELIER, "value if text.isupper() else 0", "text.isupper()"),
    Kind.bool: Effect(
        "False", (), "True", '"perhaps"', _ONLY, "-math.inf if text.upper() != text else 0.0", "text.upper() == text"
    ),
    Kind.str: Effect(
        '""',
        ("max_length=52",),
        '"aeioubcdfghlmnprstw"',
        "99",
        _LETTERS,
        "-math.inf if set(value) & set(text) else 0.0",
        'not set("aeioubcdfghlmnprstw") & set(text)',
    ),
}
