"""Reading JSON objects whose keys are known, with errors that say where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Fields"]


class Fields:
    """The keys of one JSON object.

    Args:
        name: what the object is called in errors.
        data: the object.
        required: keys that it must have.
        optional: keys that it may have; it may have no others.

    Raises:
        ValueError: ``data`` is no object, or a key is missing or unknown.
    """

    def __init__(self, name: str, data: Any, required: tuple[str, ...] = (), optional: tuple[str, ...] = ()) -> None:
        if not isinstance(data, Mapping):
            raise ValueError(f"{name}: must be an object, not {type(data).__name__}")
        if missing := [key for key in required if key not in data]:
            raise ValueError(f"{name}: {missing[0]!r} is missing")
        if unknown := [key for key in data if key not in (*required, *optional)]:
            raise ValueError(f"{name}: {unknown[0]!r} is no key here; keys are {', '.join((*required, *optional))}")
        self.name = name
        self.given: Mapping[str, Any] = data

    def get(self, key: str) -> Any:
        """The value as it is, ``None`` when not given."""
        return self.given.get(key)

    def text(self, key: str) -> str:
        """A string; it must be given.

        Raises:
            ValueError: it is something else.
        """
        value = self.given.get(key)
        if not isinstance(value, str):
            raise ValueError(f"{self.name}.{key}: must be a string")
        return value

    def flag(self, key: str) -> bool:
        """A truth value, false when not given.

        Raises:
            ValueError: it is something else.
        """
        value = self.given.get(key, False)
        if not isinstance(value, bool):
            raise ValueError(f"{self.name}.{key}: must be true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, empty when not given.

        Raises:
            ValueError: it is something else.
        """
        return _texts(f"{self.name}.{key}", self.given.get(key, ()))

    def text_lists(self, key: str) -> tuple[tuple[str, ...], ...]:
        """A list of lists of strings, empty when not given.

        Raises:
            ValueError: it is something else.
        """
        value = self.given.get(key, ())
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{self.name}.{key}: must be a list of lists of strings")
        return tuple(_texts(f"{self.name}.{key}", item) for item in value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{name}: must be a list of strings")
    return tuple(value)
