"""Loads plugins: the built-in ones, installed ones, and those given to a pipeline."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import pkgutil
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Optional
from weakref import WeakKeyDictionary, WeakSet

import pluggy
from pydantic import Field, create_model

from chatplan import hookspecs
from chatplan.answering import can_parse, model_format
from chatplan.errors import PluginConflictError, PluginError
from chatplan.families import AnswerFormat, built_in_formats
from chatplan.guided.backend import GrammarBackend
from chatplan.request import ChatCompletionRequest

if TYPE_CHECKING:
    from chatplan.guided.dispatch import Enforcer
    from chatplan.model import ModelInfo

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
    "chatplan.hooks.reasoning",
    "chatplan.hooks.parsing",
    "chatplan.hooks.tools",
    "chatplan.hooks.guided",
    "chatplan.hooks.scheduling",
    # `auto` asks grammar backends in the order that hooks are called in: the last one here first.
    "chatplan.hooks.lm_format_enforcer",
    "chatplan.hooks.outlines",
    "chatplan.hooks.xgrammar",
    "chatplan.hooks.guidance",
    "chatplan.hooks.engines",
)
"""The built-in plugins, by dotted name; each is switched off by its last part, as in ``disable=["penalties"]``."""


log: logging.Logger = logging.getLogger("chatplan")


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
        self.fields: dict[str, tuple[str, ...]]
        self.request_type: type[ChatCompletionRequest]
        self.fields, self.request_type = self._collect_fields()
        self.formats: dict[str, AnswerFormat] = self._collect_formats()
        self._introduced: WeakKeyDictionary[ModelInfo, ModelInfo] = WeakKeyDictionary()
        self._known: WeakSet[ModelInfo] = WeakSet()
        self._enforcers: WeakKeyDictionary[ModelInfo, Enforcer] = WeakKeyDictionary()
        self._lock = threading.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """The plugins in use, in the order they were loaded."""
        return tuple(name for name, plugin in self._manager.list_name_plugin() if plugin is not None)

    def get(self, name: str) -> Any:
        """The plugin of that name, as it was loaded: a module or an object; ``None`` if there is none."""
        return self._manager.get_plugin(name)

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

    def notify(self, hook: str, **arguments: Any) -> None:
        """Call ``hook`` on every plugin that has it; observers change nothing, so what one raises is logged."""
        for plugin, function, wanted in self._calls[hook]:
            try:
                function(*[arguments[name] for name in wanted])
            except Exception:
                log.exception("plugin %r: %s raised; the answer stands", plugin, hook)

    def hooks_of(self, plugin: str) -> tuple[str, ...]:
        """The hooks that ``plugin`` implements."""
        return tuple(hook for hook, calls in self._calls.items() if any(call.plugin == plugin for call in calls))

    def has(self, hook: str) -> bool:
        """Whether some plugin implements ``hook``."""
        return bool(self._calls[hook])

    def introduce(self, model: ModelInfo) -> ModelInfo:
        """``model`` with what these plugins know of it: the format of its answers.

        Raises:
            PluginError: the setting ``tool_call_parser`` names no format.
        """
        with self._lock:
            if model in self._known:
                return model
            if model not in self._introduced:
                try:
                    known = replace(model, answer_format=model_format(model, self.formats))
                except ValueError as error:
                    raise PluginError(f"tool_call_parser: {error}") from error
                self._introduced[model] = known
                self._known.add(known)
            return self._introduced[model]

    def enforcer(self, model: ModelInfo) -> Enforcer:
        """The grammar backends of ``model``, made when its first constraint comes."""
        from chatplan.guided.dispatch import Enforcer

        with self._lock:
            if model not in self._enforcers:
                answers = self.ask("grammar_backend", model=model)
                self._enforcers[model] = Enforcer([_as_backend(*answer) for answer in answers], model.settings)
            return self._enforcers[model]

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
            if entry.name in self._disabled:  # it may be left out just because it does not load
                self._seen.add(entry.name)
                continue
            try:
                loaded = entry.load()
                loaded = loaded() if inspect.isclass(loaded) else loaded
            except Exception as error:
                raise PluginError(f"installed plugin {entry.name!r} ({entry.value}) does not load: {error}") from error
            self._register(loaded, entry.name)

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
        added: dict[str, tuple[str, Any]] = {}
        for plugin, names in self.ask("request_fields"):
            if isinstance(names, str) or not isinstance(names, Collection):
                raise PluginError(f"plugin {plugin!r}: request_fields returned {names!r}, not a collection of names")
            for name in names:
                owners[name] = (*owners.get(name, ()), plugin)
                if isinstance(names, Mapping) and name not in ChatCompletionRequest.model_fields:
                    first, wanted = added.setdefault(name, (plugin, names[name]))
                    if wanted != names[name]:
                        raise PluginConflictError(f"request field {name!r}", (first, plugin))
        if not added:
            return owners, ChatCompletionRequest
        fields: dict[str, Any] = {name: _as_field(plugin, name, wanted) for name, (plugin, wanted) in added.items()}
        return owners, create_model("ChatCompletionRequest", __base__=ChatCompletionRequest, **fields)

    def _collect_formats(self) -> dict[str, AnswerFormat]:
        """The formats of answers, built in and added."""
        formats = dict(built_in_formats())
        owners = dict.fromkeys(formats, "chatplan")
        for plugin, added in self.ask("answer_formats"):
            if not isinstance(added, Mapping):
                raise PluginError(f"plugin {plugin!r}: answer_formats returned {type(added).__name__}, not a mapping")
            for name, wanted in added.items():
                if name in formats:
                    raise PluginConflictError(f"answer format {name!r}", (owners[name], plugin))
                formats[name], owners[name] = _as_format(plugin, name, wanted), plugin
        return formats


def _hook_names() -> list[str]:
    return [name for name, value in vars(hookspecs).items() if hasattr(value, "chatplan_spec")]


def _load(plugin: Any) -> Any:
    """A plugin from what a user wrote: dotted names are imported, classes are instantiated."""
    if isinstance(plugin, str):
        try:
            plugin = pkgutil.resolve_name(plugin)
        except Exception as error:  # a module raises what it likes while it is imported
            raise PluginError(f"plugin {plugin!r} cannot be imported: {error}") from error
    if not inspect.isclass(plugin):
        return plugin
    try:
        return plugin()
    except Exception as error:
        raise PluginError(f"plugin {plugin.__name__!r} cannot be made without arguments: {error}") from error


def _name_of(plugin: Any) -> str:
    name = getattr(plugin, "name", None)
    if isinstance(name, str):
        return name
    return plugin.__name__.rpartition(".")[2] if inspect.ismodule(plugin) else type(plugin).__name__


def _as_backend(plugin: str, answer: Any) -> GrammarBackend:
    if not isinstance(answer, GrammarBackend) or not isinstance(getattr(answer, "name", None), str):
        what = f"{type(answer).__name__}, not a GrammarBackend with a name"
        raise PluginError(f"plugin {plugin!r}: grammar_backend returned {what}")
    return answer


def _as_format(plugin: str, name: str, wanted: Any) -> AnswerFormat:
    """A plugin's format, its patterns compiled once, so that a wrong one is no error of the first request."""
    try:
        made = wanted if isinstance(wanted, AnswerFormat) else AnswerFormat.from_dict(name, wanted)
        if can_parse():
            from transformers.utils.chat_parsing.response_templates import load_response_template

            load_response_template(dict(made.response_template))
    except ValueError as error:
        raise PluginError(f"plugin {plugin!r}: {error}") from error
    return made


def _as_field(plugin: str, name: str, wanted: Any) -> tuple[Any, Any]:
    """A plugin's ``type`` or ``(type, Field)`` as pydantic takes it; absent fields are ``None`` unless it says else."""
    if name.startswith("_") or hasattr(ChatCompletionRequest, name):
        raise PluginError(f"plugin {plugin!r}: a request field cannot be called {name!r}")
    try:
        field = wanted if isinstance(wanted, tuple) else (Optional[wanted], Field(default=None))  # noqa: UP045
        create_model("Check", **{name: field})  # type: ignore[call-overload]
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise PluginError(f"plugin {plugin!r}: {wanted!r} is no type for the field {name!r}: {reason}") from error
    return field
