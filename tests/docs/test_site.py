"""The built site: it is whole, it has what plugins add, and it asks no other host."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import forked
import pytest
from mkdocs.config import load_config

from chatplan import ChatCompletionRequest, Plugins
from chatplan.adapters.reference.hooks import HOOKS

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.dev_only, pytest.mark.slow, pytest.mark.timeout(400)]

_PLUGIN = '''
from chatplan import hookimpl
from pydantic import Field

class Loud:
    """Writes the answer in capitals."""
    name = "loud"

    @hookimpl
    def request_fields(self):
        return {"volume": (float, Field(0.5, ge=0, le=1, description="How loud <script>alert(1)</script> it is."))}
'''


class Assets(HTMLParser):
    """What a browser loads for a page by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inline = ""
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._in_script = tag == "script"
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed"):
            self.found.append(given.get("src") or "")
        if tag == "link":
            self.found.append(given.get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        self.inline += data if self._in_script else ""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The site with a plugin that only a variable names, and what was said while it was built."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "loud_on_site.py").write_text(_PLUGIN)
    environment = os.environ | {"PYTHONPATH": str(folder), "CHATPLAN_DOCS_PLUGINS": "loud_on_site:Loud"}
    done = forked.run(
        ["-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder / "site")],
        cwd=ROOT,
        env=environment | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site", done.stdout + done.stderr


@pytest.fixture(scope="module")
def site(built: tuple[Path, str]) -> Path:
    return built[0]


def pages(site: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(site.rglob("*.html")):
        yield path, path.read_text("utf-8")


def test_links_anchors_and_navigation_are_whole(built: tuple[Path, str]) -> None:
    """What is wrong with them is a warning, and a strict build ends with it."""
    assert built[1] == ""
    checked = load_config(str(ROOT / "mkdocs.yml")).validation
    assert {*checked["nav"].values(), *checked["links"].values()} == {logging.WARNING}


def test_every_field_hook_and_plugin_has_a_page(site: Path) -> None:
    for name in ChatCompletionRequest.model_fields:
        assert (site / "fields" / f"{name}.html").is_file()
    for name in HOOKS:
        assert (site / "reference" / "hooks" / f"{name}.html").is_file()
    for name in Plugins().names:
        assert (site / "reference" / "plugins" / f"{name}.html").is_file()


def test_what_a_plugin_adds_is_there_by_itself(site: Path) -> None:
    field = (site / "fields" / "volume.html").read_text("utf-8")
    assert "How loud &lt;script&gt;alert(1)&lt;/script&gt; it is." in field
    assert "Writes the answer in capitals." in (site / "reference" / "plugins" / "loud.html").read_text("utf-8")
    assert "loud.html" in (site / "reference" / "hooks" / "request_fields.html").read_text("utf-8")
    listed = (site / "fields.html").read_text("utf-8")
    assert 'href="fields/volume.html"' in listed


def test_a_page_written_by_hand_has_the_generated_head(site: Path) -> None:
    text = (site / "fields" / "guided_json.html").read_text("utf-8")
    assert text.count("<h1") == 1
    assert text.index("vLLM 0.6.4</td>") > text.index("What is refused")


def test_files_beside_the_documentation_are_pages(site: Path) -> None:
    assert "RequestError" in (site / "readme.html").read_text("utf-8")
    assert 'href="fields.html"' in (site / "readme.html").read_text("utf-8")
    assert "class" in (site / "examples" / "custom_plugin.py.html").read_text("utf-8")
    assert not list(site.rglob("*.py"))


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    for path, text in pages(site):
        assets = Assets(text)
        assert assets.found, path
        assert [asset for asset in assets.found if re.match(r"(\w+:)?//", asset)] == [], path
        assert not re.search(r"(fetch|import)\(\s*[\"']https?:", assets.inline), path
        # The theme would load its drawing library from another host.
        assert 'class="mermaid"' not in text, path


def test_no_style_loads_anything_from_another_host(site: Path) -> None:
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(\w+:)?//", path.read_text("utf-8")), path


def test_the_picture_is_one_that_stands_alone(site: Path) -> None:
    text = (site / "data_flow.svg").read_text("utf-8")
    assert "<title" in text
    assert not re.search(r"(href|src)=|<script", text)
    assert 'src="data_flow.svg"' in (site / "explanation.html").read_text("utf-8")
