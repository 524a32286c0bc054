"""What is to be said of each plugin, and its page."""

from __future__ import annotations

import importlib.metadata
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import chatplan
from chatplan.adapters.reference.markdown import as_markdown, table
from chatplan.manager import BUILTINS

if TYPE_CHECKING:
    from chatplan.manager import Plugins

__all__ = ["PluginFacts", "plugin_facts", "plugin_page"]


@dataclass(frozen=True)
class PluginFacts:
    """One plugin that is loaded.

    Attributes:
        package: the distribution that it came with, with ``version``; "" where it came with none.
        source: ``built in``, ``installed`` (by entry point) or ``given``.
        module: the dotted name of its module, or of its class.
        file: where its code is.
        about: its docstring.
    """

    name: str
    hooks: tuple[str, ...]
    fields: tuple[str, ...]
    package: str
    version: str
    source: str
    module: str
    file: str
    about: str


def plugin_facts(plugins: Plugins) -> list[PluginFacts]:
    """Of all that are loaded, in the order of loading."""
    return [_facts(name, plugins) for name in plugins.names]


def _facts(name: str, plugins: Plugins) -> PluginFacts:
    plugin = plugins.get(name)
    module = plugin if inspect.ismodule(plugin) else inspect.getmodule(type(plugin))
    dotted = getattr(module, "__name__", "")
    fields = tuple(field for field, owners in plugins.fields.items() if name in owners)
    source, package, version = _origin(name, dotted)
    place = dotted if inspect.ismodule(plugin) else f"{dotted}:{type(plugin).__qualname__}"
    file = getattr(module, "__file__", None) or ""
    return PluginFacts(
        name, plugins.hooks_of(name), fields, package, version, source, place, file, _about(plugin, module)
    )


def _origin(name: str, module: str) -> tuple[str, str, str]:
    """How it was found, and the name and version of its package."""
    if module in BUILTINS:
        return "built in", "chatplan", chatplan.__version__
    for entry in importlib.metadata.entry_points(group="chatplan"):
        if entry.name == name and entry.module.partition(".")[0] == module.partition(".")[0] and entry.dist:
            return "installed", entry.dist.name, entry.dist.version
    for package in importlib.metadata.packages_distributions().get(module.partition(".")[0], ()):
        return "given", package, importlib.metadata.version(package)
    return "given", "", ""


def _about(plugin: Any, module: Any) -> str:
    own = plugin.__doc__ if inspect.ismodule(plugin) else type(plugin).__doc__
    return inspect.cleandoc(own or getattr(module, "__doc__", None) or "")


def plugin_page(facts: PluginFacts) -> str:
    """The page of one plugin as Markdown; links are relative to a folder in ``docs/reference``."""
    hooks = ", ".join(f"[`{hook}`](../hooks/{hook}.md)" for hook in facts.hooks)
    fields = ", ".join(f"[`{field}`](../../fields/{field}.md)" for field in facts.fields)
    package = " ".join(filter(None, (facts.package, facts.version)))
    rows = [("from", f"{facts.source}: `{facts.module}`"), ("package", package), ("hooks", hooks), ("fields", fields)]
    known = table(("plugin", f"`{facts.name}`"), [row for row in rows if row[1]])
    return f"# {facts.name}\n\n{as_markdown(facts.about)}\n{known}"
