"""Prompts that are the same in every run: words of one token each, drawn by name."""

from __future__ import annotations

from random import Random

__all__ = ["long_prompt", "some_words"]

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea kid body "
    "information back parent face others level office door health person art war history party result change morning "
    "reason research girl guy moment air teacher force education"
).split()
_TASK = "Tell a very long story in which all of these words appear."


def some_words(count: int, name: str) -> str:
    """So many words; another name gives others."""
    return " ".join(Random(name).choices(WORDS, k=count))


def long_prompt(tokens: int, name: str) -> str:
    """A task of about so many tokens. Its own words come first, so that no two begin alike."""
    return f"{some_words(max(tokens - len(_TASK.split()), 1), name)}\n{_TASK}"
