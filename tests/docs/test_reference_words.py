"""The words of the reference: types, ranges, Markdown, and what stands on the pages of commands, plugins and errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

import chatplan
from chatplan import Plugins, hookimpl
from chatplan.adapters.reference import field_page, with_field_tables
from chatplan.adapters.reference.command_pages import _commands, commands_page
from chatplan.adapters.reference.errors import error_classes, errors_page, further_codes
from chatplan.adapters.reference.facts import facts_of, note_of, notes
from chatplan.adapters.reference.hooks import hook_page
from chatplan.adapters.reference.html import plugins_html
from chatplan.adapters.reference.markdown import as_markdown, block, cell, code, moved, prose, table, without_links
from chatplan.adapters.reference.plugins import plugin_facts, plugin_page
from chatplan.adapters.reference.settings import _kind, _leaves, _row, model_settings_page
from chatplan.adapters.reference.support import server_rows
from chatplan.adapters.reference.table import by_group
from chatplan.adapters.reference.types import default_words, range_words, type_words
from chatplan.errors import ChatplanError
from chatplan.fields import GROUPS, request_schema
from chatplan.request import parse_request

# --- types and ranges -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prop", "words"),
    [
        ({"type": "number"}, "number"),
        ({}, "anything"),
        ({"type": "null"}, "anything"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer"),
        ({"oneOf": [{"type": "string"}, {"type": "integer"}, {"type": "string"}]}, "string or integer"),
        ({"allOf": [{"$ref": "#/x"}]}, "object"),
        ({"enum": ["a", "b"]}, '"a" or "b"'),
        ({"const": True}, "true"),
        ({"type": "array", "items": {"type": "integer"}}, "list of integers"),
        ({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "number"}]}}, "list of strings or numbers"),
        ({"type": "array"}, "list of anything"),
    ],
)
def test_types_are_said_in_words(prop: dict[str, Any], words: str) -> None:
    assert type_words(prop) == words


@pytest.mark.parametrize(
    ("prop", "words"),
    [
        ({}, ""),
        ({"minimum": 0, "maximum": 2}, "at least 0, at most 2"),
        ({"exclusiveMinimum": 0, "exclusiveMaximum": 1}, "above 0, below 1"),
        ({"minItems": 1, "maxItems": 4}, "at least 1 of them, at most 4 of them"),
        ({"minLength": 1, "maxLength": 9, "pattern": "^a"}, "at least 1 characters, at most 9 characters, matches ^a"),
        ({"anyOf": [{"type": "integer", "minimum": -1}, {"type": "null"}]}, "at least -1"),
        ({"oneOf": [{"minimum": 1}, {"maxLength": 3}]}, "at least 1, at most 3 characters"),
    ],
)
def test_ranges_are_said_in_words(prop: dict[str, Any], words: str) -> None:
    assert range_words(prop) == words


def test_defaults_are_json() -> None:
    assert [default_words({"default": value}) for value in (None, True, "é")] == ["null", "true", '"é"']
    assert default_words({}) == "null"


@pytest.mark.parametrize(
    ("prop", "example"),
    [
        ({"examples": [7, 8], "type": "integer"}, 7),
        ({"enum": ["x", "y"]}, "x"),
        ({"type": "number", "minimum": 0, "maximum": 3}, 1.5),
        ({"type": "integer", "minimum": 2, "maximum": 9}, 5),
        ({"type": "integer", "minimum": 0}, 1),
        ({"type": "integer", "minimum": 5}, 6),
        ({"type": "number", "exclusiveMinimum": -4}, -3),
        ({"type": "integer", "maximum": 10}, 1),
        ({"type": "integer", "maximum": 1}, 0),
        ({"type": "integer", "exclusiveMaximum": -1}, -2),
        ({"type": "boolean"}, True),
        ({"type": "object"}, {}),
        ({"anyOf": [{"type": "null"}, {"type": "array"}]}, []),
        ({"oneOf": [{"type": "null"}, {"type": "string"}]}, "text"),
        ({"default": 3.5}, 3.5),
    ],
)
def test_a_plugins_field_has_an_example_of_its_type_within_its_range(prop: dict[str, Any], example: Any) -> None:
    assert facts_of("no_such_field", prop).request["no_such_field"] == example


# --- Markdown ---------------------------------------------------------------------------------------------------------


def test_a_table_keeps_its_columns() -> None:
    assert cell(" a |\n b  c ") == "a \\| b c"
    assert table(("x", "y"), [("1", "2|3"), ("4", "5\n6")]) == "| x | y |\n|---|---|\n| 1 | 2\\|3 |\n| 4 | 5 6 |\n"
    assert table(("x", "y"), []) == ""


def test_the_fence_of_a_block_is_longer_than_any_in_it() -> None:
    assert block("python", "x = 1\n\n") == "```python\nx = 1\n```\n"
    assert block("text", "a ` b").startswith("```text\n")
    assert block("text", "```\n````\nx").splitlines()[::5] == ["`````text"]


def test_html_is_text_but_for_what_is_code() -> None:
    assert prose("a <b> `<c>` <d>") == "a &lt;b> `<c>` &lt;d>"
    assert code(["é", True]) == '`["é", true]`'


def test_links_move_with_their_text_but_not_those_within_or_to_elsewhere() -> None:
    text = "[a](x.md) [b](#here) [c](https://example.org/x) [d](../y.md#z)"
    assert moved(text, "../") == "[a](../x.md) [b](#here) [c](https://example.org/x) [d](../../y.md#z)"
    assert without_links("[a](x.md) and [c](https://example.org)") == "a and [c](https://example.org)"


def test_docstrings_become_markdown() -> None:
    docstring = (
        "Does ``x`` as :func:`~chatplan.pipeline` and :class:`.Chat` do.\n\nArgs:\n"
        "    one: the first\n        of them.\n"
        "    two: the <second>.\n\nRaises:\n    KeyError: there is none.\n"
    )
    assert as_markdown(docstring) == (
        "Does `x` as `chatplan.pipeline` and `Chat` do.\n\n\n**Args**\n\n- `one`: the first of them.\n"
        "- `two`: the &lt;second>.\n\n\n**Raises**\n\n- `KeyError`: there is none.\n"
    )


# --- fields -----------------------------------------------------------------------------------------------------------


def test_a_note_stands_on_the_page_of_each_field_that_it_names() -> None:
    heads = [re.match(r"\*\*([^*]+)\.\*\* (.*)", text, re.DOTALL) for text in notes().split("\n\n")]
    for found in filter(None, heads[1:]):
        for name in found[1].split(", "):
            assert found[2].strip() in note_of(name)
    assert note_of("model") == "" or "**" not in note_of("model")[:2]
    assert note_of("Ord") == ""
    page = field_page("temperature", Plugins(installed=False))
    assert f"## What holds here\n\n{moved(note_of('temperature'), '../')}\n" in page


class Two:
    """Fields of two groups."""

    name = "two"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"mine": (int, Field(2, description="M.")), "other": (bool, Field(False, description="O."))}


def test_fields_of_plugins_come_after_the_built_in_groups() -> None:
    plugins = Plugins([Two])
    groups = by_group(request_schema(plugins)["properties"])
    assert list(groups)[: len(GROUPS)] == list(GROUPS)
    assert {name: tuple(names) for name, names in groups.items() if name in GROUPS} == {
        name: tuple(names) for name, names in GROUPS.items()
    }
    assert groups["two"] == ["mine", "other"]


def test_the_tables_stand_between_the_marks_and_link_where_there_is_a_page() -> None:
    begin, end = (
        "<!-- made by: python -m chatplan.adapters.reference docs/fields.md -->",
        "<!-- end of what is made -->",
    )
    made = with_field_tables(f"Before.\n{begin}\nnot of today\n{end}\nAfter.\n", Plugins([Two]), ["mine"])
    assert made.startswith(f"Before.\n{begin}\n\n## ")
    assert made.endswith(f"{end}\nAfter.\n")
    assert "not of today" not in made
    assert "\n| [`mine`](fields/mine.md) | integer | 2 |  | M. | `two` |\n" in made
    assert "\n| `other` | boolean | false |  | O. | `two` |\n" in made
    assert "\n## Two\n" in made
    assert f"## Notes\n\n{notes()}" in made
    assert "[`other`](fields/other.md)" in with_field_tables(f"{begin}{end}", Plugins([Two]))


@pytest.mark.parametrize("text", ["nothing", "<!-- end of what is made -->"])
def test_a_page_without_the_marks_is_an_error_that_says_which(text: str) -> None:
    begin = "<!-- made by: python -m chatplan.adapters.reference docs/fields.md -->"
    with pytest.raises(ValueError, match="There is no <!-- made by"):
        with_field_tables(text, Plugins(installed=False))
    with pytest.raises(ValueError, match="There is no <!-- end of what is made"):
        with_field_tables(begin, Plugins(installed=False))


def test_the_page_of_a_hook_has_its_own_part_of_the_guide_with_links_that_hold() -> None:
    guide = (
        "# Hooks\n\n## engine(a)\n\nNot this.\n\n## check_request(b)\n\nThis [one](engines.md).\n\n## Else\n\nNor.\n"
    )
    page = hook_page("check_request", Plugins(installed=False), guide)
    assert page.endswith("## In use\n\nThis [one](../../engines.md).\n")
    assert "## In use" not in hook_page("constraint", Plugins(installed=False), guide)


@pytest.mark.dev_only
def test_a_server_takes_a_field_by_its_name_or_another_or_needs_none() -> None:
    requests = {
        name: parse_request(facts_of(name, {}).request) for name in ("temperature", "repetition_penalty", "stream")
    }
    rows = {name: dict(server_rows(name, request)) for name, request in requests.items()}
    assert rows["temperature"]["`vllm`"] == "yes"
    assert rows["repetition_penalty"]["`llama.cpp`"] == "as `repeat_penalty`"
    assert rows["stream"]["`openai`"] == "yes, nothing is sent: done on this side"


# --- plugins ----------------------------------------------------------------------------------------------------------


class Quiet:
    @hookimpl
    def check_request(self, request: Any) -> None:
        pass


def test_a_plugin_says_where_it_is_from_and_what_it_does() -> None:
    found = {each.name: each for each in plugin_facts(Plugins([Two, Quiet()], installed=False))}
    assert (found["two"].source, found["two"].package, found["two"].version) == ("given", "", "")
    assert found["two"].module.endswith("test_reference_words:Two")
    assert found["two"].about == "Fields of two groups."
    (quiet,) = [each for each in found.values() if each.module.endswith(":Quiet")]
    assert quiet.about == __doc__
    assert found["stops"].module == "chatplan.hooks.stops"
    assert list(found)[-2:] == ["two", quiet.name], "in the order of loading"


def test_a_given_plugin_of_an_installed_package_has_its_version() -> None:
    import pluggy

    class Given:
        @hookimpl
        def check_request(self, request: Any) -> None:
            pass

    Given.__module__ = "pluggy._hooks"
    (found,) = [each for each in plugin_facts(Plugins([Given()], installed=False)) if "Given" in each.module]
    assert (found.source, found.package, found.version) == ("given", "pluggy", pluggy.__version__)


def test_the_page_of_a_plugin_leaves_out_what_there_is_not() -> None:
    (stops,) = [each for each in plugin_facts(Plugins(installed=False)) if each.name == "stops"]
    page = plugin_page(stops)
    assert page.startswith(f"# stops\n\n{as_markdown(stops.about)}\n| plugin | `stops` |\n")
    assert "\n| from | built in: `chatplan.hooks.stops` |\n" in page
    assert f"\n| package | chatplan {chatplan.__version__} |\n" in page
    assert "[`request_fields`](../hooks/request_fields.md), [`check_request`](../hooks/check_request.md)" in page
    assert "[`stop`](../../fields/stop.md), [`stop_token_ids`](../../fields/stop_token_ids.md)" in page
    bare = plugin_page(replace(stops, package="", version="", fields=()))
    assert not re.search(r"^\| (package|fields) \|", bare, re.MULTILINE)


def test_the_page_of_all_plugins_has_its_headings_in_order() -> None:
    text = plugins_html(Plugins([Two], installed=False))
    levels = [int(level) for level in re.findall(r"<h(\d)", text)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert "<h3>mine</h3>" in text
    assert "<h4>Elsewhere</h4>" in text
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)', text)), "none leads to a page"


# --- settings, commands, errors ---------------------------------------------------------------------------------------


class Inner(BaseModel):
    keys_file: str | None = Field(description="Which file.", default=None)


class Outer(BaseModel):
    max_rows: int = Field(5, description="How many.")
    modes: list[Literal["a", "b"]] = Field(["a"], description="Which modes.")
    limits: dict[str, int | str] = Field({"x": 1})
    must: float
    inner: Inner


def test_settings_are_flags_and_variables_also_those_within_others() -> None:
    assert [_row(*leaf) for leaf in _leaves(Outer)] == [
        ("`--max-rows`", "`CHATPLAN_MAX_ROWS`", "int", "`5`", "How many."),
        ("`--modes`", "`CHATPLAN_MODES`", "list[`a`, `b`]", '`["a"]`', "Which modes."),
        ("`--limits`", "`CHATPLAN_LIMITS`", "dict[str, int or str]", '`{"x": 1}`', ""),
        ("`--must`", "`CHATPLAN_MUST`", "float", "", ""),
        ("`--inner.keys-file`", "`CHATPLAN_INNER__KEYS_FILE`", "str", "", "Which file."),
    ]
    assert _kind(Iterable[str] | None) == "Iterable[str]"


def test_the_settings_of_a_model_are_in_order_with_whole_meanings() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| `.*?` \| (.*) \|$", model_settings_page(), re.MULTILINE)
    assert [name for name, _, _ in rows] == list(vars(chatplan.Settings()))
    meaning = {name: about for name, _, about in rows}
    assert meaning["logprobs_mode"].endswith("as the distribution that was drawn from.")
    assert "``" not in "".join(meaning.values())


@pytest.mark.dev_only
def test_every_command_has_its_usage_meaning_and_options() -> None:
    import typer.main

    from chatplan.adapters.cli import app

    root: Any = typer.main.get_command(app)
    page = commands_page()
    sections = dict(zip(*[iter(re.split(r"^## (.*)$", page, flags=re.MULTILINE)[1:])] * 2, strict=True))
    shown = {name for name, command in root.commands.items() if not command.hidden}
    assert {path.split()[1] for path in sections if " " in path} == shown
    assert "chatplan keys create" in sections
    for path, text in sections.items():
        assert f"\n```text\n{path} [OPTIONS]" in text
        assert ("server_settings.md" in text) == (path == "chatplan serve")
        if path not in ("chatplan serve", "chatplan playground"):
            assert "| `--help` | Show this message and exit. |" in text
    assert "| `--version` | Print the version and leave. |" in sections["chatplan"]
    assert "Serve a model over HTTP; `chatplan serve --help` lists all settings." in sections["chatplan serve"]
    assert "``" not in page.replace("```", "")
    assert page.startswith(f"# Every command\n\n{root.help.splitlines()[0]}\n\n## chatplan\n")


def test_commands_within_commands_are_listed_but_for_hidden_ones() -> None:
    import click

    inner = click.Group("b", commands=[click.Command("c"), click.Command("d", hidden=True)])
    root = click.Group("a", commands=[inner, click.Command("e", hidden=True), click.Command("f")])
    assert [path for path, _ in _commands(root, "a")] == ["a", "a b", "a b c", "a f"]


def test_errors_stand_below_what_they_are_kinds_of() -> None:
    row = r"^\| ((?:&emsp;)*)\[`(\w+)`\]\(#(\w+)\) \| (\d+) \| `(\w+)` \| `(\w+)` \|$"
    rows = re.findall(row, errors_page(), re.MULTILINE)
    classes = list(error_classes(ChatplanError))
    assert [row[1] for row in rows] == [cls.__name__ for cls in classes]
    for (indent, name, anchor, status, default, kind), cls in zip(rows, classes, strict=True):
        assert indent == "&emsp;" * cls.__mro__.index(ChatplanError)
        assert anchor == name.lower()
        assert (int(status), default, kind) == (cls.status, cls.default_code, cls.type)
    assert "`ChatplanError` → `RequestError` → `ContextLengthError`.\n" in errors_page()
    assert not any(cls.__module__ == __name__ for cls in classes)


class Foreign(chatplan.RequestError):
    """Of somebody else's: it has no place in the reference."""


def test_further_codes_are_sorted_and_told_with_their_classes() -> None:
    codes = list(further_codes())
    assert codes == sorted(codes)
    assert "\n| `not_written` | `EngineError` |\n" in errors_page()
    assert Foreign not in list(error_classes(ChatplanError))
