"""One page of HTML on all plugins, which needs no other file and asks no other host."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING

import jinja2
from markdown_it import MarkdownIt
from markupsafe import Markup

import chatplan
from chatplan.adapters.reference.fields import field_page
from chatplan.adapters.reference.markdown import as_markdown, without_links
from chatplan.adapters.reference.plugins import PluginFacts, plugin_facts
from chatplan.fields import request_schema

if TYPE_CHECKING:
    from markdown_it.token import Token

    from chatplan.manager import Plugins

__all__ = ["plugins_html"]


def plugins_html(plugins: Plugins) -> str:
    """Every plugin with its docstring, its hooks, and the reference of its fields.

    What plugins say of themselves is Markdown in which HTML is text.
    """
    schema = request_schema(plugins)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("chatplan.adapters.reference") / "plugins.html.j2").read_text("utf-8"))
    facts = plugin_facts(plugins)
    pages = {name: _rendered(field_page(name, plugins, schema=schema)) for name in _documented(facts, schema)}
    abouts = {each.name: _rendered(as_markdown(each.about)) for each in facts}
    return template.render(version=chatplan.__version__, plugins=facts, abouts=abouts, pages=pages)


def _documented(facts: Sequence[PluginFacts], schema: dict[str, dict[str, object]]) -> list[str]:
    """A field that a plugin only names, without a type, has no place in the schema."""
    return [name for each in facts for name in each.fields if name in schema["properties"]]


def _rendered(text: str) -> Markup:
    """Markdown as HTML, its headings below those of the page."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(without_links(text))
    for token in tokens:
        _lower(token)
    return Markup(markdown.renderer.render(tokens, markdown.options, {}))


def _lower(token: Token) -> None:
    if token.type.startswith("heading"):
        token.tag = f"h{min(6, int(token.tag[1:]) + 2)}"
