"""The page of one hook."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chatplan import hookspecs
from chatplan.adapters.reference.markdown import as_markdown, block, moved

if TYPE_CHECKING:
    from chatplan.manager import Plugins

__all__ = ["HOOKS", "hook_page"]

HOOKS: dict[str, Callable[..., Any]] = {
    name: value for name, value in vars(hookspecs).items() if hasattr(value, "chatplan_spec")
}
"""All hooks, in the order in which they are called for a request."""


def hook_page(name: str, plugins: Plugins, guide: str = "") -> str:
    """The reference of the hook ``name`` as Markdown; links are relative to a folder in ``docs/reference``.

    Args:
        guide: the text of ``docs/hooks.md``, whose part on this hook becomes the example.

    Raises:
        KeyError: there is no such hook.
    """
    hook = HOOKS[name]
    signature = f"def {name}{inspect.signature(hook)}".replace("'", "")
    owners = [owner for owner in plugins.names if name in plugins.hooks_of(owner)]
    users = ", ".join(f"[`{owner}`](../plugins/{owner}.md)" for owner in owners) or "no plugin that is loaded"
    parts = [f"# {name}\n", block("python", signature), as_markdown(inspect.getdoc(hook) or "")]
    return "\n".join([*parts, f"Implemented by: {users}.\n", _part(name, guide)])


def _part(name: str, guide: str) -> str:
    """The section on the hook, moved to where the page is."""
    _, found, rest = guide.partition(f"\n## {name}(")
    body = rest.partition("\n## ")[0].partition("\n")[2].strip()
    return f"## In use\n\n{moved(body, '../../')}\n" if found else ""
