"""What an answer is spelled with: the bytes of a model's tokens, and sets of characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chatplan.guided.backend import CannotEnforce
from chatplan.model import ModelInfo

__all__ = ["JSON_STRING", "NO_BLANKS", "NUL", "Ranges", "common", "escaped", "spelled", "token_bytes", "without"]

Ranges = Sequence[tuple[int, int]]

NUL: Ranges = ((0, 0),)
JSON_STRING: Ranges = ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C))
"""What stands in a JSON string only as an escape."""
NO_BLANKS: Ranges = ((0, 8), (0x0B, 0x0C), (0x0E, 0x1F), (0x21, 0x10FFFF))
"""All but the whitespace of JSON."""

_CODES = {0: r"\x00", 0x09: r"\t", 0x0A: r"\n", 0x0D: r"\r"}


def token_bytes(model: ModelInfo) -> list[bytes]:
    """The bytes of each token; empty for those that are never part of a text: special ones, and ids without a token.

    Raises:
        CannotEnforce: no token ends an answer.
    """
    if not any(token_id < model.logits_width for token_id in model.eos_token_ids):
        raise CannotEnforce("the model has no token that ends an answer")
    added = model.tokenizer.added_tokens_decoder
    special = {token_id for token_id, token in added.items() if token.special}
    special.update(model.tokenizer.all_special_ids, model.eos_token_ids)
    return [b"" if i in special else bytes(model.tokens.bytes(i)) for i in range(model.logits_width)]


def without(ranges: Iterable[tuple[int, int]], removed: Ranges) -> list[tuple[int, int]]:
    """What is in ``ranges`` and not in ``removed``."""
    left = list(ranges)
    for low, high in removed:
        cut = [((a, min(b, low - 1)), (max(a, high + 1), b)) for a, b in left]
        left = [(a, b) for parts in cut for a, b in parts if a <= b]
    return left


def common(some: Ranges, others: Ranges) -> list[tuple[int, int]]:
    """What is in both."""
    found = [(max(a, c), min(b, d)) for a, b in some for c, d in others]
    return [part for part in found if part[0] <= part[1]]


def spelled(ranges: Ranges, negated: bool) -> str:
    """The set, or all but it, as a class of characters in a regular expression."""
    if not ranges:
        return "[\\x00-\U0010ffff]" if negated else ""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    # NUL comes last: some read on through hexadecimal digits that follow its escape.
    merged.sort(key=lambda pair: pair[0] == 0)
    ends = (((low,) if low == high else (low, high)) for low, high in merged)
    body = "".join("-".join(escaped(code, r"\[]^-&~") for code in pair) for pair in ends)
    return f"[{'^' if negated else ''}{body}]"


def escaped(code: int, special: str) -> str:
    """A character in a regular expression, where those in ``special`` are escaped."""
    return _CODES.get(code) or (f"\\{chr(code)}" if chr(code) in special else chr(code))
