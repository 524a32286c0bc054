"""Prompts that are the same in every run: words of one token each, drawn by name."""

from __future__ import annotations

from random import Random

__all__ = ["Message", "messages", "prefix"]

Message = dict[str, str]

WORDS = (
    "time year people way day man thing woman life child world school state family student group country problem hand "
    "part place case week company system program question work government number night point home water room mother "
    "area money story fact month lot right study book eye job word business issue side kind head house service friend "
    "father power hour game line end member law car city community name president team minute idea kid body "
    "information back parent face others level office door health person art war history party result change morning "
    "reason research girl guy moment air teacher force education"
).split()
TASK = "Tell a very long story, at least ten pages, in which all of these words appear:"


def some_words(count: int, name: str) -> str:
    """So many words; another name gives others."""
    return " ".join(Random(name).choices(WORDS, k=count))


def prefix(tokens: int = 400, name: str = "shared") -> Message:
    """A system message of about so many tokens."""
    return {"role": "system", "content": "You know: " + some_words(tokens - 10, name)}


def messages(name: str, shared: bool = False, words: int | None = None) -> list[Message]:
    """A conversation for ``name``: about 109 tokens of its own, or a prefix of 400 that all share and 48 of its own."""
    # Its own words come first, so that no two prompts begin alike.
    own = some_words(words or (24 if shared else 58), name)
    user = {"role": "user", "content": f"{own}\n{TASK} {own.split()[0]}"}
    return [prefix(), user] if shared else [user]
