"""The pages on single subjects: their code prints what they say, and their tables are true."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
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
PAGES = [
    *(DOCS / f"{name}.md" for name in ("guided", "tools", "reasoning", "auth")),
    *sorted((DOCS / "fields").glob("*.md")),
]
NONE = "\N{EN DASH}"  # in a table
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


class Block(NamedTuple):
    """A block of Python, and what it is said to print."""

    source: str
    prints: str


def blocks(page: Path) -> Iterator[Block]:
    pattern = r"```python\n(.*?)```\n(?:\s*```text\n(.*?)```\n)?"
    for source, prints in re.findall(pattern, page.read_text("utf-8"), flags=re.DOTALL):
        yield Block(source, prints)


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


@each_page
def test_a_page_shows_code(page: Path) -> None:
    found = list(blocks(page))
    assert found
    for block in found:
        ast.parse(block.source)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.dev_only
@each_page
def test_a_page_prints_what_it_says(page: Path, shared: ChatPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    real = chatplan.pipeline

    def pipeline(task: str, model: Any, **options: Any) -> ChatPipeline:
        if model == HUB_NAME and not options:
            return shared
        return real(task, model=shared.model, tokenizer=shared.tokenizer, **options)

    monkeypatch.setattr(chatplan, "pipeline", pipeline)
    namespace: dict[str, Any] = {}
    for block in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block.source, page.name, "exec"), namespace)
        assert printed.getvalue() == block.prints


# --- tables and links -------------------------------------------------------------------------------------------------


def test_every_new_field_has_a_page_that_the_list_of_fields_links_to() -> None:
    assert {page.stem for page in (DOCS / "fields").glob("*.md")} == FIELDS
    listed = (DOCS / "fields.md").read_text("utf-8")
    for name in FIELDS:
        assert name in ChatCompletionRequest.model_fields
        assert f"[`{name}`](fields/{name}.md)" in listed


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text("utf-8")):
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
