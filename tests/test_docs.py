"""The pages on single subjects: their code prints what they say, and their tables are true."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import chatplan
from chatplan import ChatCompletionRequest, ChatPipeline
from chatplan.families import built_in_formats
from chatplan.guided.tags import TYPES
from chatplan.schemas.formats import ENFORCED, PATTERNS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
FIELDS = {
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar", "guided_whitespace_pattern"),
    *("guided_decoding_backend", "response_format", "structured_outputs", "tools", "tool_choice"),
    *("parallel_tool_calls", "include_reasoning", "reasoning_effort", "thinking_token_budget"),
}
MOST_NOT_RUN = 18
PAGES = sorted(DOCS.rglob("*.md"))
NONE = "\N{EN DASH}"  # in a table


def pages_with(what: Callable[[Path], object]) -> pytest.MarkDecorator:
    """For each page on which there is something to look at."""
    pages = [page for page in PAGES if what(page)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(DOCS).as_posix())


class Block(NamedTuple):
    """A block of Python or of shell, and what it is said to print."""

    language: str
    source: str
    prints: str
    not_run: str


_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^>]+) -->\n)?```(?P<language>python|sh)\n(?P<source>.*?)^```\n"
    r"(?:\n```text\n(?P<prints>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)


def blocks(page: Path) -> list[Block]:
    """Blocks of Python, and those of shell whose output is shown; other shell installs and serves."""
    found = [
        Block(each["language"], each["source"], each["prints"] or "", each["why"] or "")
        for each in _BLOCK.finditer(page.read_text("utf-8"))
    ]
    return [block for block in found if block.language == "python" or block.prints]


def table(page: Path, first: str) -> dict[str, list[str]]:
    """The rows of the table whose first heading is ``first``, by their first cell."""
    _, _, rest = page.read_text("utf-8").partition(f"\n| {first} |")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip().replace("\\|", "|") for cell in line.strip("|").split(" | ")] for line in lines]
    return {row[0].strip("` "): row[1:] for row in rows}


# --- code -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared(model_path: str) -> ChatPipeline:
    """The model that all pages share; they come by it through ``pipeline``, as a reader would."""
    return chatplan.pipeline("chat", model=model_path)


def test_every_field_page_shows_code() -> None:
    assert all(blocks(page) for page in (DOCS / "fields").glob("*.md"))


def test_few_blocks_are_left_out_and_each_says_why() -> None:
    left_out = [block for page in PAGES for block in blocks(page) if block.not_run]
    assert len(left_out) <= MOST_NOT_RUN
    assert all(len(block.not_run.split()) >= 3 for block in left_out)
    assert not [page for page in PAGES if "<!-- not run -->" in page.read_text("utf-8")]


def links(page: Path) -> list[str]:
    """The files that a page leads to."""
    return re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8"))


@pages_with(lambda page: any(block.language == "python" for block in blocks(page)))
def test_the_code_of_a_page_is_python(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python":
            ast.parse(block.source)


def run_python(source: str, name: str, namespace: dict[str, Any]) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, name, "exec", dont_inherit=True), namespace)
    return printed.getvalue()


def run_shell(source: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "COLUMNS": "120", "NO_COLOR": "1"}
    command = ["bash", "-c", source]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    ).stdout


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.dev_only
@pages_with(lambda page: any(not block.not_run for block in blocks(page)))
def test_a_page_prints_what_it_says(
    page: Path, shared: ChatPipeline, model_path: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    real = chatplan.pipeline

    def pipeline(task: str, model: Any, **options: Any) -> ChatPipeline:
        if model == model_path and not options:
            return shared
        same = {"model": shared.model, "tokenizer": shared.tokenizer} if model == model_path else {"model": model}
        return real(task, **same | options)

    monkeypatch.setattr(chatplan, "pipeline", pipeline)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        source = block.source.replace(HUB_NAME, model_path)
        if not block.not_run and block.language == "python":
            assert run_python(source, page.name, namespace).replace(model_path, HUB_NAME) == block.prints
        elif not block.not_run:
            assert run_shell(source, tmp_path).replace(model_path, HUB_NAME) == block.prints


# --- tables and links -------------------------------------------------------------------------------------------------


def test_every_new_field_has_a_page_that_the_list_of_fields_links_to() -> None:
    assert {page.stem for page in (DOCS / "fields").glob("*.md")} == FIELDS
    listed = (DOCS / "fields.md").read_text("utf-8")
    for name in FIELDS:
        assert name in ChatCompletionRequest.model_fields
        assert f"[`{name}`](fields/{name}.md)" in listed


@pages_with(links)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        assert (page.parent / target).exists(), target


def test_the_table_of_families_is_that_of_the_files() -> None:
    rows = table(DOCS / "tools.md", "family")
    assert set(rows) == set(built_in_formats())
    for name, (others, reasoning, enforced, streams, _) in rows.items():
        each = built_in_formats()[name]
        assert tuple(re.findall(r"`([^`]+)`", others)) == each.names
        assert reasoning == (NONE if each.reasoning is None else f"`{each.reasoning.open}`")
        calls = "tool_calls" in each.response_template["fields"]
        assert enforced == (NONE if not calls else "generic syntax" if each.calls is None else "yes")
        assert streams == (NONE if not calls else "no" if each.stream_key is None else "yes")


def test_the_table_of_structural_tags_is_that_of_the_code() -> None:
    rows = table(DOCS / "guided.md", "type")
    for name, keys in TYPES.items():
        assert set(re.findall(r"`(\w+)`", rows[name][0])) == keys, name
        assert "guidance" in rows[name][2]
    assert all("guidance" not in rows[name][2] for name in set(rows) - set(TYPES))


def test_all_formats_that_are_enforced_are_listed() -> None:
    _, _, rest = (DOCS / "guided.md").read_text("utf-8").partition("### Formats\n")
    assert set(re.findall(r"`([\w-]+)`", rest.partition("Refused")[0])) >= ENFORCED | set(PATTERNS)
