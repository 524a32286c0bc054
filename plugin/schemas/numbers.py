"""Bounds of numbers, in the form in which llguidance enforces them exactly.

llguidance keeps bounds as 64-bit floats and whole bounds as 64-bit integers. Bounds that do not fit are moved inwards
to the next number that does, so that at most some numbers of 16 and more digits are lost.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import product
from typing import Any

from chatplan.guided.backend import CannotEnforce
from chatplan.schemas.values import number

__all__ = [
    "BOUNDS",
    "check_bounds",
    "check_multiples",
    "short_forms",
    "short_multiples",
    "sound_constant",
    "sound_numbers",
]

BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
EXACT = 2**53
LARGEST = float(2**63 - 1024)


def sound_numbers(node: dict[str, Any], place: str) -> dict[str, Any]:
    """The keywords about numbers, one bound on either side.

    Raises:
        CannotEnforce: a bound allows only numbers of more than 64 bits.
    """
    rules = {key: node[key] for key in ("multipleOf",) if key in node}
    for side, stronger, sign in (("inimum", max, 1), ("aximum", min, -1)):
        plain, exclusive = node.get("m" + side), node.get("exclusiveM" + side)
        if exclusive is not None and (plain is None or stronger(plain, exclusive) == exclusive):
            bound, key = exclusive, "exclusiveM" + side
        elif plain is not None:
            bound, key = plain, "m" + side
        else:
            continue
        if abs(bound) >= EXACT:
            bound, key = _inwards(bound, sign, key.startswith("exclusive"), place), "m" + side
        rules[key] = int(bound) if bound == int(bound) else bound
    return rules


def _inwards(bound: float, sign: int, exclusive: bool, place: str) -> float:
    """The outermost float within a bound, both as it is and with the digits that llguidance prints for it."""
    if sign * bound > LARGEST:
        raise CannotEnforce(f"the bound {bound} is too large", place)
    if sign * bound < -LARGEST:
        return -sign * LARGEST
    found = float(bound)
    while min(sign * (value - number(bound)) for value in (int(found), int(Decimal(repr(found))))) < exclusive:
        found = math.nextafter(found, sign * math.inf)
    return found


def sound_constant(value: Any, place: str) -> Any:
    """A value of ``const`` or ``enum`` with its whole numbers as integers.

    Raises:
        CannotEnforce: it has a number that no 64-bit float holds, or too large a one.
    """
    if isinstance(value, list):
        return [sound_constant(item, place) for item in value]
    if isinstance(value, dict):
        return {key: sound_constant(item, place) for key, item in value.items()}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if abs(value) > LARGEST or int(float(value)) != int(value):
        raise CannotEnforce(f"the number {value} has too many digits", place)
    return int(value) if value == int(value) else value


def short_forms(rules: dict[str, Any]) -> list[Any]:
    """Numbers within the bounds that llguidance would want written with more digits: 0.2 for a maximum of 0.25."""
    bounds = [rules[key] for key in BOUNDS if key in rules]
    digits = max((len(_decimals(bound)) for bound in bounds), default=0)
    found = {math.trunc(number(bound) * 10**n) / 10**n for bound in bounds for n in range(1, min(digits, 18))}
    return sorted(value for value in found if value != int(value) and _within(value, rules))


def short_multiples(rules: dict[str, Any]) -> list[Any]:
    """Multiples that llguidance would want written with more digits: those of 0.5 for a multiple of 0.25."""
    step = number(rules.get("multipleOf", 1))
    places = len(_decimals(float(step)))
    found = {
        Fraction(math.lcm(int(step * 10**places), 10 ** (places - n)), 10**places) for n in range(1, min(places, 9))
    }
    return [float(value) for value in sorted(found - {step})]


def _decimals(bound: float) -> str:
    return format(Decimal(str(bound)), "f").partition(".")[2] if bound != int(bound) else ""


def _within(value: float, rules: dict[str, Any]) -> bool:
    low, high = rules.get("minimum", -math.inf), rules.get("maximum", math.inf)
    above, below = rules.get("exclusiveMinimum", -math.inf), rules.get("exclusiveMaximum", math.inf)
    return bool(low <= value <= high and above < value < below)


def check_bounds(rules: Sequence[dict[str, Any]], place: str) -> None:
    """Refuse bounds of one number that llguidance gets wrong together.

    An exclusive whole bound is taken as inclusive where the other bound is less than 1 away.

    Raises:
        CannotEnforce: there are such bounds.
    """
    sides = {key: [rule[key] for rule in rules if key in rule] for key in BOUNDS}
    lows, highs = sides["minimum"] + sides["exclusiveMinimum"], sides["maximum"] + sides["exclusiveMaximum"]
    pairs = [
        *product(sides["exclusiveMinimum"], highs),
        *((-a, -b) for a, b in product(sides["exclusiveMaximum"], lows)),
    ]
    if any(exclusive == int(exclusive) and exclusive < other < exclusive + 1 for exclusive, other in pairs):
        raise CannotEnforce("an exclusive bound cannot be enforced where the other bound is less than 1 away", place)


def check_multiples(values: Iterable[float], place: str) -> None:
    """Refuse several ``multipleOf`` whose least common multiple llguidance might get wrong: it has 32 bits for it.

    Raises:
        CannotEnforce: two of them together are too large.
    """
    fractions = sorted({number(value) for value in values})
    scale = max((fraction.denominator for fraction in fractions), default=1)
    if len(fractions) > 1 and fractions[-1] * fractions[-2] * scale * scale >= 2**25:
        raise CannotEnforce('several "multipleOf" with so many digits cannot be enforced', place)
