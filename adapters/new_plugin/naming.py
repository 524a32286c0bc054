"""The names in a new plugin package, all from one; what cannot be a name is refused."""

from __future__ import annotations

import importlib.metadata
import keyword
import re
from dataclasses import dataclass

from chatplan.errors import RequestError
from chatplan.manager import BUILTINS
from chatplan.request import ChatCompletionRequest

__all__ = ["Names"]

_PACKAGE = re.compile(r"[a-z][a-z0-9]*([._-]+[a-z0-9]+)*", re.IGNORECASE | re.ASCII)
_FIELD = re.compile(r"[a-z][a-z0-9_]*")
_LONGEST = 50


@dataclass(frozen=True)
class Names:
    """What is called how.

    Attributes:
        plugin: the entry point, by which errors, ``explain`` and ``disable`` speak of it: ``loud_words``.
        package: what pip installs: ``chatplan-loud-words``.
        module: what Python imports: ``chatplan_loud_words``.
        processor: the class: ``LoudWordsProcessor``.
        field: the request's field.
    """

    plugin: str
    package: str
    module: str
    processor: str
    field: str

    @classmethod
    def of(cls, name: str, field: str | None = None, again: bool = False) -> Names:
        """The names that follow from ``name``; ``again`` allows that of a plugin that is installed already.

        Raises:
            RequestError: it cannot be the name of a package, or belongs to something else.
        """
        plugin = _plugin(name)
        if plugin in _builtin():
            raise RequestError(f"there is a built-in plugin called {plugin!r}; take another name", param="NAME")
        if not again and plugin in importlib.metadata.entry_points(group="chatplan").names:
            raise RequestError(
                f"a plugin called {plugin!r} is installed; take another name, or --force to write it anew", param="NAME"
            )
        words = plugin.split("_")
        camel = "".join(word.capitalize() for word in words)
        chosen = _field(plugin, "NAME") if field is None else _field(field, "--field")
        return cls(plugin, f"chatplan-{'-'.join(words)}", f"chatplan_{plugin}", f"{camel}Processor", chosen)


def _plugin(name: str) -> str:
    if not _PACKAGE.fullmatch(name) or len(name) > _LONGEST:
        allowed = f"letters, digits and single words joined by - or _, beginning with a letter, at most {_LONGEST}"
        raise RequestError(f"{name!r} cannot be the name of a package: {allowed}", param="NAME")
    plugin = re.sub(r"[._-]+", "_", name.lower())
    plugin = plugin.removeprefix("chatplan_")
    if plugin == "chatplan":
        raise RequestError("chatplan is the package itself; take another name", param="NAME")
    if keyword.iskeyword(plugin) or not plugin.isidentifier():
        raise RequestError(f"{plugin!r} means something else to Python; take another name", param="NAME")
    return plugin


def _field(name: str, param: str) -> str:
    if not _FIELD.fullmatch(name) or keyword.iskeyword(name) or len(name) > _LONGEST:
        raise RequestError(f"{name!r} cannot be a field: small letters, digits and _", param=param)
    if name in ChatCompletionRequest.model_fields:
        other = "take another name, or name the field with --field" if param == "NAME" else "take another name"
        raise RequestError(f"the request has a field {name!r} already; {other}", param=param)
    if hasattr(ChatCompletionRequest, name):
        raise RequestError(f"a field cannot be called {name!r}, as the request has a method of that name", param=param)
    return name


def _builtin() -> set[str]:
    return {dotted.rpartition(".")[2] for dotted in BUILTINS}
