"""``chatplan plugins``: as a table, as JSON, and as one page of HTML."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import Field
from typer.testing import CliRunner

import chatplan
from chatplan import EngineError, PluginError, Plugins, hookimpl
from chatplan.adapters.reference.commands import plugins as plugins_command
from chatplan.adapters.reference.html import plugins_html
from chatplan.adapters.reference.plugins import plugin_facts
from chatplan.manager import BUILTINS

runner = CliRunner()
app = typer.Typer()
app.command()(plugins_command)

_LOUD = '''
"""A plugin to try."""
from chatplan import hookimpl

class Loud:
    """Writes the answer in [capitals]."""
    name = "loud"

    @hookimpl
    def request_fields(self):
        return {"loud": bool}
'''


class Hostile:
    """<script>alert(1)</script> and [a link](javascript:alert(1))"""

    name = "<img src=x>"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"hostile": (str, Field("</code><script>", description="<script>alert(2)</script> | `x`"))}


class Tags(HTMLParser):
    """All tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture
def loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "loud_to_try.py").write_text(_LOUD)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "loud_to_try:Loud"


def test_json_has_every_plugin_with_hooks_fields_and_origin(loud: str) -> None:
    result = runner.invoke(app, ["--json", "--plugin", loud, "--disable", "beam"])
    found = {each["name"]: each for each in json.loads(result.stdout)}
    assert {dotted.rpartition(".")[2] for dotted in BUILTINS} - {"beam"} <= set(found)
    assert "beam" not in found
    assert found["stops"]["fields"] == ["stop", "stop_token_ids", "include_stop_str_in_output"]
    assert found["stops"]["source"] == "built in"
    assert (found["stops"]["package"], found["stops"]["version"]) == ("chatplan", chatplan.__version__)
    assert found["loud"]["hooks"] == ["request_fields"]
    assert found["loud"]["source"] == "given"
    assert found["loud"]["module"] == "loud_to_try:Loud"
    assert found["loud"]["file"].endswith("loud_to_try.py")
    assert found["loud"]["about"] == "Writes the answer in [capitals]."


def test_the_table_names_plugins_hooks_and_fields(loud: str) -> None:
    result = runner.invoke(app, ["--plugin", loud], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert re.search(r"│ loud +│ request_fields +│ loud +│ given", result.stdout)
    assert re.search(rf"│ +│ \w+ +│ stop_token_ids +│ chatplan {chatplan.__version__}", result.stdout)


def test_an_installed_plugin_has_the_version_of_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loud_installed.py").write_text(_LOUD)
    info = tmp_path / "chatplan_loud-1.2.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: chatplan-loud\nVersion: 1.2.3\n")
    (info / "entry_points.txt").write_text("[chatplan]\nloud = loud_installed:Loud\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (found,) = (each for each in plugin_facts(Plugins()) if each.name == "loud")
    assert (found.source, found.package, found.version) == ("installed", "chatplan-loud", "1.2.3")


def test_a_plugin_that_does_not_load_is_an_error_of_the_plugin() -> None:
    result = runner.invoke(app, ["--plugin", "no_such_module:Nobody"])
    assert isinstance(result.exception, PluginError)


def test_html_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    result = runner.invoke(app, ["--html", str(tmp_path / "no" / "page.html")])
    assert isinstance(result.exception, EngineError)
    assert "page.html cannot be written: No such file or directory" in str(result.exception)


def test_html_has_each_plugin_and_the_reference_of_its_fields(tmp_path: Path, loud: str) -> None:
    page = tmp_path / "page.html"
    result = runner.invoke(app, ["--html", str(page), "--plugin", loud])
    assert result.exit_code == 0
    text = page.read_text("utf-8")
    for each in plugin_facts(Plugins([loud])):
        assert f"<h2>{each.name}</h2>" in text
        for field in each.fields:
            assert f"<summary><code>{field}</code></summary>\n<h3>{field}</h3>" in text
    assert "<p>Writes the answer in [capitals].</p>" in text


def test_html_asks_no_other_host_and_runs_nothing_that_a_plugin_says() -> None:
    text = plugins_html(Plugins([Hostile], installed=False))
    tags = Tags(text).found
    assert {tag for tag, _ in tags}.isdisjoint({"script", "img", "iframe", "link", "object", "b"})
    assert all(str(attributes.get("href", "#")).startswith("#") for _, attributes in tags)
    assert all(not key.startswith("on") and key != "src" for _, attributes in tags for key in attributes)
    assert "&lt;script&gt;alert(2)&lt;/script&gt;" in text
    assert "&lt;img src=x&gt;" in text
