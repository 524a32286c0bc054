"""The reference that is made from the code: nothing is missing in it, and its examples hold."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

import chatplan
from chatplan import ChatCompletionRequest, Plugins, RequestError, Settings, compile_plan, hookimpl
from chatplan.adapters.reference import field_page, with_field_tables
from chatplan.adapters.reference.errors import error_classes, errors_page, further_codes
from chatplan.adapters.reference.facts import PEERS, facts, facts_of, notes
from chatplan.adapters.reference.hooks import HOOKS, hook_page
from chatplan.adapters.reference.markdown import prose
from chatplan.adapters.reference.settings import model_settings_page, server_settings_page
from chatplan.capabilities import UNSUPPORTED
from chatplan.errors import ChatplanError
from chatplan.fields import request_schema
from chatplan.request import parse_request
from chatplan.standin import stand_in

ROOT = Path(__file__).parents[2]
PLUGINS = Plugins(installed=False)
SCHEMA = request_schema(PLUGINS)
each_field = pytest.mark.parametrize("name", ChatCompletionRequest.model_fields)


class Loud:
    """Writes the answer in capitals."""

    name = "loud"

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"loud": (float, Field(0.5, ge=0, le=1, description="How <b>loud</b> it is."))}


def page(name: str) -> str:
    return field_page(name, PLUGINS, schema=SCHEMA)


def cells(text: str, first: str) -> list[str]:
    """Those of the first row that begins with ``first``."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


# --- fields -----------------------------------------------------------------------------------------------------------


def test_the_facts_are_those_of_the_fields_and_of_no_others() -> None:
    assert list(facts()) == list(ChatCompletionRequest.model_fields)


@pytest.mark.dev_only  # tools need a newer transformers
@each_field
def test_every_field_has_an_example_that_sets_it_and_compiles_to_a_plan(name: str) -> None:
    example = facts()[name].request
    request = parse_request(example)
    assert name in request.model_fields_set
    assert compile_plan(request, stand_in(), PLUGINS).request.get(name) == request.get(name)


@each_field
def test_every_field_says_how_each_peer_differs(name: str) -> None:
    assert tuple(facts()[name].peers) == PEERS
    assert all(facts()[name].peers.values())


@each_field
def test_every_page_says_all_there_is_to_say(name: str) -> None:
    text, prop = page(name), SCHEMA["properties"][name]
    assert text.startswith(f"# {name}\n\n{prose(prop['description'])}\n")
    assert cells(text, "group") == ["group", prop["x-group"]]
    assert cells(text, "plugin")[1] == ", ".join(
        f"[`{owner}`](../reference/plugins/{owner}.md)" for owner in PLUGINS.fields[name]
    )
    for engine, cannot in UNSUPPORTED.items():
        assert cells(text, f"`{engine}`")[1] == (f"no: {cannot[name]}" if name in cannot else "yes")
    for peer, difference in facts()[name].peers.items():
        assert cells(text, peer)[1] == difference


@each_field
def test_the_examples_in_json_and_in_python_are_the_same(name: str) -> None:
    (data,) = re.findall(r"```json\n(.*?)```", page(name), flags=re.DOTALL)
    (program,) = re.findall(r"```python\n(.*?)```", page(name), flags=re.DOTALL)
    assigned = {
        ast.unparse(node.targets[0]): node.value for node in ast.parse(program).body if isinstance(node, ast.Assign)
    }
    assert ast.literal_eval(assigned["request"]) == json.loads(data) == facts()[name].request


def test_a_page_written_by_hand_keeps_its_text_below_the_head() -> None:
    text = field_page("stop", PLUGINS, "# stop\n\nBy hand.\n", SCHEMA)
    assert text.index("| type |") < text.index("By hand.") < text.index("## Elsewhere")
    assert text.count("# stop\n") == 1
    assert "## Example" not in text


def test_the_tables_in_the_committed_list_are_those_of_today() -> None:
    text = (ROOT / "docs" / "fields.md").read_text("utf-8")
    pages = {path.stem for path in (ROOT / "docs" / "fields").glob("*.md")}
    assert with_field_tables(text, PLUGINS, pages) == text
    assert set(re.findall(r"^\| \[?`(\w+)`", text, re.MULTILINE)) == set(ChatCompletionRequest.model_fields)


def test_the_notes_are_about_fields_that_there_are() -> None:
    heads = re.findall(r"^\*\*([^*]+)\.\*\*", notes(), re.MULTILINE)
    named = {name for head in heads[1:] for name in head.split(", ")}
    assert heads[0] == "Order"
    assert named <= set(ChatCompletionRequest.model_fields)


def test_a_plugins_field_has_a_page_by_itself() -> None:
    plugins = Plugins([Loud])
    text = field_page("loud", plugins)
    assert "How &lt;b>loud&lt;/b> it is." in text
    assert cells(text, "type") == ["type", "number"]
    assert cells(text, "default") == ["default", "`0.5`"]
    assert cells(text, "range") == ["range", "at least 0, at most 1"]
    assert cells(text, "group") == ["group", "loud"]
    assert "The plugin loud brings this field" in text


@pytest.mark.dev_only
def test_servers_are_asked_what_they_make_of_a_field() -> None:
    assert cells(page("guided_json"), "`vllm`")[1] == "as `structured_outputs`"
    assert cells(page("repetition_penalty"), "`llama.cpp`")[1] == "as `repeat_penalty`"
    assert cells(page("best_of"), "`vllm`")[1].startswith("no: vLLM ignores it")
    loud = field_page("loud", Plugins([Loud]))
    assert cells(loud, "`vllm`")[1].startswith("no: ")
    assert cells(loud, "`chatplan`")[1] == "yes"


@pytest.mark.parametrize(
    ("kind", "valid"),
    [
        (int, 1),
        (str, "text"),
        (bool, True),
        (list[int], []),
        ((float, Field(0.0, gt=3)), 4),
        ((int, Field(0, ge=-5, le=-1)), -3),
        ((int, Field(0, le=-3)), -4),
        ((str, Field("x", examples=["a", "b"])), "a"),
    ],
)
def test_the_example_of_a_plugins_field_is_a_value_that_it_takes(kind: Any, valid: Any) -> None:
    class Other:
        @hookimpl
        def request_fields(self) -> Mapping[str, Any]:
            return {"other": kind}

    plugins = Plugins([Other])
    example = facts_of("other", request_schema(plugins)["properties"]["other"]).request
    assert parse_request(example, plugins.request_type).get("other") == valid


def test_a_field_that_nobody_has_has_no_page() -> None:
    with pytest.raises(KeyError):
        page("tempurature")


# --- hooks, settings, errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_has_its_signature_words_users_and_example(name: str) -> None:
    text = hook_page(name, Plugins([Loud]), (ROOT / "docs" / "hooks.md").read_text("utf-8"))
    assert f"def {name}(" in text
    assert (inspect.getdoc(HOOKS[name]) or "").split()[0] in text
    assert ("[`loud`]" in text) == (name == "request_fields")
    assert "## In use" in text
    assert ":class:" not in text


def test_every_setting_of_a_model_has_its_default_and_meaning() -> None:
    for name, default in vars(Settings()).items():
        row = cells(model_settings_page(), f"`{name}`")
        assert row[2] == f"`{default!r}`"
        assert row[3]


@pytest.mark.dev_only
def test_every_setting_of_the_server_is_there_with_its_meaning() -> None:
    from chatplan.adapters.server.settings import ServerSettings

    text = server_settings_page()
    for name in ServerSettings.model_fields.keys() - {"auth", "upstream"}:
        assert cells(text, f"`--{name.replace('_', '-')}`")[-1]
    assert cells(text, "`--auth.keys-file`")[1] == "`CHATPLAN_AUTH__KEYS_FILE`"
    assert cells(text, "`--max-memory`")[2] == "dict[str, int or str]"


def test_every_public_error_is_there_with_its_code() -> None:
    text = errors_page()
    public = [getattr(chatplan, name) for name in chatplan.__all__ if name.endswith("Error")]
    assert set(public) <= set(error_classes(ChatplanError))
    for cls in public:
        assert f"\n## {cls.__name__}\n" in text
        assert f"code `{cls.default_code}`" in text


@pytest.mark.dev_only  # the sources lie in one folder
def test_codes_that_say_more_than_their_class_are_found_in_the_source() -> None:
    assert further_codes()["missing_credentials"] == ("AuthenticationError",)
    assert "RequestError" in further_codes()["invalid_json"]
    assert RequestError.default_code not in further_codes()
