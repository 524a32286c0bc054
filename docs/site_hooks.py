"""Makes the pages of the site that nobody writes: the reference, and the files beside docs/ that pages link to.

mkdocs calls the functions ``on_…``. What plugins add has its pages by itself: of those that are installed, those in
``extra.chatplan_plugins`` of mkdocs.yml, and those in the variable ``CHATPLAN_DOCS_PLUGINS``.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from chatplan import Plugins
from chatplan.adapters.reference import field_page, with_field_tables
from chatplan.adapters.reference.command_pages import commands_page
from chatplan.adapters.reference.errors import errors_page
from chatplan.adapters.reference.hooks import HOOKS, hook_page
from chatplan.adapters.reference.markdown import block
from chatplan.adapters.reference.plugins import plugin_facts, plugin_page
from chatplan.adapters.reference.settings import model_settings_page, server_settings_page
from chatplan.adapters.reference.table import by_group
from chatplan.fields import request_schema

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BESIDE = {"README.md": "readme.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yaml": "yaml",
    ".cfg": "ini",
    ".sh": "sh",
    ".js": "js",
    ".json": "json",
}
_LINK = re.compile(r"(\]\()([^)\s:#]+)(#[^)\s]*)?(\))")
_FENCE = re.compile(r"^(```+.*?^```+)$", re.MULTILINE | re.DOTALL)


@lru_cache(maxsize=1)
def plugins_of(names: tuple[str, ...]) -> Plugins:
    return Plugins(names)


def plugins_in(config: MkDocsConfig) -> Plugins:
    added = os.environ.get("CHATPLAN_DOCS_PLUGINS", "").split(",")
    return plugins_of(tuple(name for name in (*config.extra.get("chatplan_plugins", ()), *added) if name))


# --- the navigation ---------------------------------------------------------------------------------------------------


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put lists of pages where the navigation says ``made/…``."""
    plugins = plugins_in(config)
    groups = by_group(request_schema(plugins)["properties"])
    made: dict[str, list[Any]] = {
        "made/fields": ["fields.md", *({group: [f"fields/{name}.md" for name in groups[group]]} for group in groups)],
        "made/hooks": ["hooks.md", *(f"reference/hooks/{name}.md" for name in HOOKS)],
        "made/plugins": ["reference/plugins/index.md", *(f"reference/plugins/{name}.md" for name in plugins.names)],
        "made/examples": ["examples/index.md", *(page for _, page in _examples())],
        "made/decisions": ["decisions/index.md", *(f"decisions/{path.name}" for path in _decisions())],
    }
    config.nav = _filled(config.nav, made)
    return config


def _filled(nav: Any, made: dict[str, list[Any]]) -> Any:
    if isinstance(nav, list):
        return [_filled(item, made) for item in nav]
    if isinstance(nav, dict):
        return {title: _filled(item, made) for title, item in nav.items()}
    return made.get(nav, nav)


# --- the pages --------------------------------------------------------------------------------------------------------


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made, in place of what is written by hand where that is part of it."""
    for uri, content in _pages(plugins_in(config)):
        written = files.get_file_from_path(uri)
        if written is not None:
            files.remove(written)
        files.append(File.generated(config, uri, content=content))
    return files


def _pages(plugins: Plugins) -> Iterator[tuple[str, str]]:
    yield from _field_pages(plugins)
    guide = (DOCS / "hooks.md").read_text("utf-8")
    for name in HOOKS:
        yield f"reference/hooks/{name}.md", hook_page(name, plugins, guide)
    facts = plugin_facts(plugins)
    for each in facts:
        yield f"reference/plugins/{each.name}.md", plugin_page(each)
    listed = [f"- [{each.name}]({each.name}.md): {each.about.partition(chr(10))[0]}" for each in facts]
    yield "reference/plugins/index.md", _list("Plugins", listed)
    yield "reference/settings.md", model_settings_page()
    yield "reference/server_settings.md", server_settings_page()
    yield "reference/errors.md", errors_page()
    yield "reference/commands.md", commands_page()
    yield "decisions/index.md", _list("Decisions", [f"- [{_title(path)}]({path.name})" for path in _decisions()])
    yield from _beside()


def _field_pages(plugins: Plugins) -> Iterator[tuple[str, str]]:
    schema = request_schema(plugins)
    yield "fields.md", with_field_tables((DOCS / "fields.md").read_text("utf-8"), plugins)
    for name in schema["properties"]:
        path = DOCS / "fields" / f"{name}.md"
        body = path.read_text("utf-8") if path.is_file() else ""
        yield f"fields/{name}.md", field_page(name, plugins, body, schema)


def _beside() -> Iterator[tuple[str, str]]:
    """Files of the repository: those in Markdown as they are, others as code."""
    for name, uri in BESIDE.items():
        yield uri, (ROOT / name).read_text("utf-8")
    for path, uri in _examples():
        text = path.read_text("utf-8")
        shown = block(LANGUAGES.get(path.suffix, "text"), text)
        yield uri, text if path.suffix == ".md" else f"# {_under(path)}\n\n{shown}"
    listed = [f"- [{_under(path)}]({posixpath.relpath(uri, 'examples')})" for path, uri in _examples()]
    yield "examples/index.md", _list("Examples", listed)


def _examples() -> list[tuple[Path, str]]:
    """Each file below examples/, and its page."""
    found = sorted(path for path in (ROOT / "examples").rglob("*") if path.is_file() and _is_source(path))
    return [(path, f"{_under(path).removesuffix('.md')}.md".replace("README", "about")) for path in found]


def _is_source(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return not any(part.startswith((".", "__pycache__")) or part.endswith((".egg-info", ".pyc")) for part in parts)


def _under(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _decisions() -> list[Path]:
    return sorted((DOCS / "decisions").glob("[0-9]*.md"))


def _title(path: Path) -> str:
    return path.read_text("utf-8").partition("\n")[0].removeprefix("# ")


def _list(title: str, items: list[str]) -> str:
    return f"# {title}\n\n" + "\n".join(items) + "\n"


# --- links ------------------------------------------------------------------------------------------------------------


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links that lead out of docs/, or to a folder, lead to the pages made for them."""
    source = _source_of(page.file.src_uri)
    parts = _FENCE.split(markdown)
    return "".join(
        part if part.startswith("```") else _LINK.sub(lambda found: _relinked(found, source, page.file.src_uri), part)
        for part in parts
    )


@lru_cache(maxsize=1)
def _made_from() -> dict[str, str]:
    """From the path of a file in the repository to that of its page."""
    return BESIDE | {_under(path): uri for path, uri in _examples()}


def _source_of(uri: str) -> str:
    pages = {page: path for path, page in _made_from().items()}
    return pages.get(uri, f"docs/{uri}")


def _relinked(found: re.Match[str], source: str, uri: str) -> str:
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), found[2]))
    if target.startswith("docs/") and (ROOT / target).is_file() and source.startswith("docs/"):
        return found[0]
    to = _page_of(target)
    if to is None:
        return found[0]
    return f"{found[1]}{posixpath.relpath(to, posixpath.dirname(uri) or '.')}{found[3] or ''}{found[4]}"


def _page_of(target: str) -> str | None:
    if target in _made_from():
        return _made_from()[target]
    if (ROOT / target).is_dir():
        readme = _made_from().get(f"{target}/README.md")
        inside = PurePosixPath(target).parts[:1] == ("examples",)
        return readme or ("examples/index.md" if inside else f"{target.removeprefix('docs/')}/index.md")
    return target.removeprefix("docs/") if target.startswith("docs/") else None
