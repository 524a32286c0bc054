"""Pages from templates, with everything that they are given escaped."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from chatplan.display.tokens import visible

__all__ = ["render"]


def render(template: str, **values: Any) -> str:
    """The HTML of a template in ``templates/``."""
    return _environment().get_template(template).render(**values)


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = PackageLoader("chatplan.display")
    made = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters |= {"visible": visible, "hue": _hue, "percent": _percent}
    return made


def _hue(probability: float) -> int:
    """Degrees on the colour wheel: 0, red, for what is never drawn, to 130, green, for what always is."""
    return round(130 * probability)


def _percent(probability: float) -> str:
    return f"{100 * probability:.3g} %"
