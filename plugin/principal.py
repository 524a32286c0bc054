"""Who asks: what the hook ``authenticate`` returns, and what a request may do in that name."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Principal"]


@dataclass(frozen=True)
class Principal:
    """Somebody whose credential is valid, and the limits that come with it. ``None`` is no limit.

    Attributes:
        name: stable, for logs, metrics and quotas; never the credential itself.
        models: the model names that may be used.
        max_priority: how urgent a request may be: the lowest ``priority`` allowed, since lower goes first.
        requests_per_minute, tokens_per_minute: rates; tokens are those of prompts and answers together.
        concurrency: the most requests at once.
    """

    name: str
    models: frozenset[str] | None = None
    max_priority: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
