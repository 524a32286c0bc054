"""Prompts that are the same in every run: words of one token each, drawn by name."""

from __future__ import annotations

from chatplan.adapters.bench.words import some_words

__all__ = ["Message", "messages", "prefix"]

Message = dict[str, str]

TASK = "Tell a very long story, at least ten pages, in which all of these words appear:"


def prefix(tokens: int = 400, name: str = "shared") -> Message:
    """A system message of about so many tokens."""
    return {"role": "system", "content": "You know: " + some_words(tokens - 10, name)}


def messages(name: str, shared: bool = False, words: int | None = None) -> list[Message]:
    """A conversation for ``name``: about 109 tokens of its own, or a prefix of 400 that all share and 48 of its own."""
    # Its own words come first, so that no two prompts begin alike.
    own = some_words(words or (24 if shared else 58), name)
    user = {"role": "user", "content": f"{own}\n{TASK} {own.split()[0]}"}
    return [prefix(), user] if shared else [user]
