"""Loads plugins: the built-in ones, installed ones, and those given to a pipeline."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, Optional

import pluggy
from pydantic import Field, create_model

from chatplan import hookspecs
from chatplan.errors import PluginError
from chatplan.request import ChatCompletionRequest

__all__ = ["BUILTINS", "Plugins"]

BUILTINS = (
    "chatplan.hooks.answer",
    "chatplan.hooks.template",
    "chatplan.hooks.length",
    "chatplan.hooks.sampling",
    "chatplan.hooks.filters",
    "chatplan.hooks.penalties",
    "chatplan.hooks.bias",
    "chatplan.hooks.beam",
    "chatplan.hooks.stops",
    "chatplan.hooks.detokenize",
    "chatplan.hooks.logprobs",
    "chatplan.hooks.engines",
)
"""The built-in plugins, by dotted name; each is switched off by its last part, as in ``disable=["penalties"]``."""


class Implementation(NamedTuple):
    """One plugin's function for one hook, and the arguments it takes."""

    plugin: str
    function: Callable[..., Any]
    arguments: tuple[str, ...]


class Plugins:
    """The plugins of one pipeline.

    Args:
        plugins: modules, instances, classes, or dotted names (``"package.module"``, ``"package.module:Plugin"``).
        disable: names of plugins to leave out, built-in or installed.
        installed: whether to load what other packages offer under the entry-point group ``chatplan``.

    Raises:
        PluginError: a plugin cannot be loaded, has a hook that does not exist or takes arguments that it does not
            have; or ``disable`` names a plugin that is not there.
    """

    def __init__(self, plugins: Iterable[Any] = (), disable: Collection[str] = (), installed: bool = True) -> None:
        self._manager = pluggy.PluginManager("chatplan")
        self._manager.add_hookspecs(hookspecs)
        self._disabled = set(disable)
        self._seen: set[str] = set()
        for dotted in BUILTINS:
            self._register(importlib.import_module(dotted))
        if installed:
            self._load_installed()
        for plugin in plugins:
            self._register(_load(plugin))
        self._check_names()
        self._calls = {name: self._implementations(name) for name in _hook_names()}
        self.fields, self.request_type = self._collect_fields()

    @property
    def names(self) -> tuple[str, ...]:
        """The plugins in use, in the order they were loaded."""
        return tuple(name for name, plugin in self._manager.list_name_plugin() if plugin is not None)

    def ask(self, hook: str, **arguments: Any) -> list[tuple[str, Any]]:
        """Call ``hook`` on every plugin that has it; what each returned, under its name, ``None`` left out."""
        answers = []
        for plugin, function, wanted in self._calls[hook]:
            answer = function(*[arguments[name] for name in wanted])
            if answer is not None:
                answers.append((plugin, answer))
        return answers

    def ask_first(self, hook: str, **arguments: Any) -> tuple[str, Any] | None:
        """The first plugin's answer that is not ``None``, under its name."""
        for plugin, function, wanted in self._calls[hook]:
            answer = function(*[arguments[name] for name in wanted])
            if answer is not None:
                return plugin, answer
        return None

    def hooks_of(self, plugin: str) -> tuple[str, ...]:
        """The hooks that ``plugin`` implements."""
        return tuple(hook for hook, calls in self._calls.items() if any(call.plugin == plugin for call in calls))

    def _register(self, plugin: Any, name: str | None = None) -> None:
        name = name or _name_of(plugin)
        if name in self._seen:
            raise PluginError(f"two plugins are called {name!r}; give one a `name` attribute of its own")
        self._seen.add(name)
        if name in self._disabled:
            return
        try:
            self._manager.register(plugin, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            raise PluginError(f"plugin {name!r}: {error}") from error

    def _load_installed(self) -> None:
        for entry in importlib.metadata.entry_points(group="chatplan"):
            try:
                loaded = entry.load()
            except Exception as error:
                raise PluginError(f"installed plugin {entry.name!r} ({entry.value}) does not load: {error}") from error
            self._register(loaded() if inspect.isclass(loaded) else loaded, entry.name)

    def _check_names(self) -> None:
        unknown = sorted(self._disabled - self._seen)
        if unknown:
            raise PluginError(
                f"disable names {', '.join(unknown)}, but the plugins are {', '.join(sorted(self._seen))}"
            )

    def _implementations(self, hook: str) -> tuple[Implementation, ...]:
        """In pluggy's calling order: the last one loaded first, ``tryfirst`` and ``trylast`` heeded."""
        found = []
        for impl in reversed(getattr(self._manager.hook, hook).get_hookimpls()):
            if impl.wrapper or impl.hookwrapper:
                raise PluginError(
                    f"plugin {impl.plugin_name!r}: {hook} cannot be a wrapper, since results are told apart by plugin"
                )
            found.append(Implementation(impl.plugin_name, impl.function, tuple(impl.argnames)))
        return tuple(found)

    def _collect_fields(self) -> tuple[dict[str, tuple[str, ...]], type[ChatCompletionRequest]]:
        """Who answers for each field, and the request model with the fields that plugins add."""
        owners: dict[str, tuple[str, ...]] = {}
        added: dict[str, Any] = {}
        for plugin, names in self.ask("request_fields"):
            for name in names:
                owners[name] = (*owners.get(name, ()), plugin)
                if isinstance(names, Mapping) and name not in ChatCompletionRequest.model_fields:
                    added[name] = _as_field(plugin, name, names[name])
        if not added:
            return owners, ChatCompletionRequest
        return owners, create_model("ChatCompletionRequest", __base__=ChatCompletionRequest, **added)


def _hook_names() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "chatplan_spec")]


def _load(plugin: Any) -> Any:
    """A plugin from what a user wrote: dotted names are imported, classes are instantiated."""
    if isinstance(plugin, str):
        try:
            plugin = pkgutil.resolve_name(plugin)
        except (ImportError, AttributeError, ValueError) as error:
            raise PluginError(f"plugin {plugin!r} cannot be imported: {error}") from error
    return plugin() if inspect.isclass(plugin) else plugin


def _name_of(plugin: Any) -> str:
    name = getattr(plugin, "name", None)
    if isinstance(name, str):
        return name
    return plugin.__name__.rpartition(".")[2] if inspect.ismodule(plugin) else type(plugin).__name__


def _as_field(plugin: str, name: str, wanted: Any) -> tuple[Any, Any]:
    """A plugin's ``type`` or ``(type, Field)`` as pydantic takes it; absent fields are ``None`` unless it says else."""
    if name.startswith("_"):
        raise PluginError(f"plugin {plugin!r}: a request field cannot be called {name!r}")
    if isinstance(wanted, tuple):
        return wanted
    return Optional[wanted], Field(default=None)  # noqa: UP045  `wanted` may be no plain type
