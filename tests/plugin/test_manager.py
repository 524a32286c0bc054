"""Plugins: how they are given, named, checked, called, and what fields they add."""

from __future__ import annotations

import textwrap
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import Field

from chatplan.errors import PluginConflictError, PluginError, RequestError, UnsupportedFieldError
from chatplan.hookspecs import hookimpl
from chatplan.manager import BUILTINS, Plugins
from chatplan.request import ChatCompletionRequest, parse_request

MESSAGES_ONLY = {"messages": [{"role": "user", "content": "Hi"}]}
SOURCE = """
    from chatplan.hookspecs import hookimpl

    @hookimpl
    def request_fields():
        return ["shout"]

    class Whisper:
        @hookimpl
        def request_fields(self):
            return ["whisper"]
"""


class Whisper:
    @hookimpl
    def request_fields(self) -> list[str]:
        return ["whisper"]


def plugin(name: str, **hooks: Any) -> Any:
    """A plugin of this name with these hooks."""
    return SimpleNamespace(name=name, **{hook: hookimpl(function) for hook, function in hooks.items()})


def adding(name: str, fields: Any) -> Any:
    return plugin(name, request_fields=lambda: fields)


def use(*plugins: Any, **more: Any) -> Plugins:
    return Plugins(plugins, installed=False, **more)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on sys.path with the package ``loud``, whose module ``loud.plugin`` is a plugin and holds another."""
    (tmp_path / "loud").mkdir()
    (tmp_path / "loud" / "__init__.py").touch()
    (tmp_path / "loud" / "plugin.py").write_text(textwrap.dedent(SOURCE), "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("loud", "loud.plugin", "loud.broken"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    return tmp_path


def install(folder: Path, **entries: str) -> None:
    """Pretend that a distribution with these entry points is installed in ``folder``."""
    info = folder / "loud-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: loud\nVersion: 1.0\n", "utf-8")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[chatplan]", *lines, ""]), "utf-8")


# --- how plugins are given and named ----------------------------------------------------------------------------------


def test_built_in_plugins_are_there_by_the_last_part_of_their_names() -> None:
    assert use().names == tuple(name.rpartition(".")[2] for name in BUILTINS)


def module() -> ModuleType:
    made = ModuleType("some.where.loud")
    made.request_fields = hookimpl(lambda: ["whisper"])  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (module(), "loud"),
        (Whisper(), "Whisper"),
        (Whisper, "Whisper"),
        (plugin("quiet", request_fields=lambda: ["whisper"]), "quiet"),
    ],
    ids=["module", "instance", "class", "name"],
)
def test_a_plugin_is_a_module_an_instance_or_a_class(given: Any, name: str) -> None:
    plugins = use(given)
    assert plugins.names[-1] == name
    assert plugins.fields["whisper"] == (name,)
    assert plugins.hooks_of(name) == ("request_fields",)


@pytest.mark.parametrize(
    ("dotted", "name", "field"), [("loud.plugin", "plugin", "shout"), ("loud.plugin:Whisper", "Whisper", "whisper")]
)
@pytest.mark.usefixtures("package")
def test_a_plugin_is_a_dotted_name(dotted: str, name: str, field: str) -> None:
    assert use(dotted).fields[field] == (name,)


@pytest.mark.parametrize("dotted", ["no.such.module", "chatplan:Missing", "chatplan.hooks:no such", ""])
def test_a_dotted_name_that_does_not_import_names_itself(dotted: str) -> None:
    with pytest.raises(PluginError, match="cannot be imported") as caught:
        use(dotted)
    assert repr(dotted) in str(caught.value)


def test_a_plugin_that_breaks_while_it_is_imported_names_itself(package: Path) -> None:
    (package / "loud" / "broken.py").write_text("1 / 0", "utf-8")
    with pytest.raises(PluginError, match=r"'loud\.broken'.*division by zero"):
        use("loud.broken")


def test_a_class_that_cannot_be_made_names_itself() -> None:
    class NeedsMore:
        def __init__(self, more: int) -> None: ...

    with pytest.raises(PluginError, match="NeedsMore.*argument"):
        use(NeedsMore)


def test_two_plugins_of_one_name_are_refused() -> None:
    with pytest.raises(PluginError, match=r"two plugins are called 'Whisper'.*`name`"):
        use(Whisper, Whisper())


def test_a_plugin_cannot_take_a_built_in_name() -> None:
    with pytest.raises(PluginError, match="two plugins are called 'stops'"):
        use(plugin("stops"))


# --- installed plugins ------------------------------------------------------------------------------------------------


def test_installed_plugins_are_loaded_under_their_entry_points_names(package: Path) -> None:
    install(package, loud="loud.plugin", soft="loud.plugin:Whisper")
    plugins = Plugins()
    assert plugins.fields["shout"] == ("loud",)
    assert plugins.fields["whisper"] == ("soft",)


def test_installed_plugins_can_be_left_out(package: Path) -> None:
    install(package, loud="loud.plugin")
    assert "loud" not in Plugins(disable=["loud"]).names
    assert "loud" not in Plugins(installed=False).names


@pytest.mark.parametrize("value", ["loud.missing", "loud.plugin:Missing", "loud.broken", "loud.plugin:hookimpl.x"])
def test_an_installed_plugin_that_does_not_load_names_itself(package: Path, value: str) -> None:
    (package / "loud" / "broken.py").write_text("1 / 0", "utf-8")
    install(package, bad=value)
    with pytest.raises(PluginError, match="installed plugin 'bad'") as caught:
        Plugins()
    assert value in str(caught.value)


def test_an_installed_class_that_cannot_be_made_names_itself(package: Path) -> None:
    (package / "loud" / "broken.py").write_text("class Needs:\n    def __init__(self, x): ...", "utf-8")
    install(package, bad="loud.broken:Needs")
    with pytest.raises(PluginError, match="installed plugin 'bad'"):
        Plugins()


def test_an_installed_plugin_that_does_not_load_can_be_left_out(package: Path) -> None:
    install(package, bad="loud.missing")
    assert "bad" not in Plugins(disable=["bad"]).names


# --- leaving out ------------------------------------------------------------------------------------------------------


def test_plugins_are_left_out_by_name() -> None:
    plugins = use(Whisper, disable=["penalties", "Whisper"])
    assert not {"penalties", "Whisper"} & set(plugins.names)
    assert not {"frequency_penalty", "whisper"} & set(plugins.fields)
    assert plugins.hooks_of("penalties") == ()


def test_leaving_out_what_is_not_there_names_the_plugins() -> None:
    with pytest.raises(PluginError) as caught:
        use(Whisper, disable=["penaltys", "zzz"])
    assert "disable names penaltys, zzz" in str(caught.value)
    assert all(name in str(caught.value) for name in use(Whisper).names)


# --- what is checked when plugins are loaded --------------------------------------------------------------------------


def test_a_misspelt_hook_is_refused() -> None:
    with pytest.raises(PluginError, match=r"plugin 'typo':.*logits_procesors"):
        use(plugin("typo", logits_procesors=lambda request: []))


def test_an_argument_that_the_hook_does_not_have_is_refused() -> None:
    with pytest.raises(PluginError, match=r"plugin 'typo':.*reqest") as caught:
        use(plugin("typo", check_request=lambda reqest: None))
    assert "check_request" in str(caught.value)


def test_wrappers_are_refused() -> None:
    @hookimpl(wrapper=True)
    def check_request(request: Any) -> Any:
        return (yield)

    with pytest.raises(PluginError, match=r"plugin 'wraps': check_request cannot be a wrapper"):
        use(SimpleNamespace(name="wraps", check_request=check_request))


@pytest.mark.parametrize("fields", ["shout", 5])
def test_request_fields_that_are_no_names_are_refused(fields: Any) -> None:
    with pytest.raises(PluginError, match="plugin 'loud': request_fields"):
        use(adding("loud", fields))


@pytest.mark.parametrize("name", ["_shout", "given", "model_dump"])
def test_a_field_cannot_take_a_name_that_means_something_else(name: str) -> None:
    with pytest.raises(PluginError, match=f"plugin 'loud': a request field cannot be called '{name}'"):
        use(adding("loud", {name: int}))


def test_a_field_of_no_type_names_its_plugin() -> None:
    with pytest.raises(PluginError, match="plugin 'loud'.*shout"):
        use(adding("loud", {"shout": 5}))


# --- calling ----------------------------------------------------------------------------------------------------------


def test_the_plugin_loaded_last_is_asked_first() -> None:
    made = [plugin(name, engine=lambda: None, template_args=lambda name=name: {name: 1}) for name in "abc"]
    answers = use(*made, disable=["template", "tools", "reasoning"]).ask("template_args", request=None, model=None)
    assert answers == [("c", {"c": 1}), ("b", {"b": 1}), ("a", {"a": 1})]


def test_a_plugin_may_ask_to_come_first_or_last() -> None:
    first = SimpleNamespace(name="first", template_args=hookimpl(lambda request: {}, tryfirst=True))
    last = SimpleNamespace(name="last", template_args=hookimpl(lambda request: {}, trylast=True))
    plugins = use(
        first, plugin("x", template_args=lambda request: {}), last, plugin("y", template_args=lambda request: {})
    )
    names = [name for name, _ in plugins.ask("template_args", request=parse_request(MESSAGES_ONLY), model=None)]
    assert names == ["first", "y", "x", "template", "last"]


def test_hooks_get_the_arguments_they_ask_for_in_any_order() -> None:
    odd = plugin("odd", render_prompt=lambda model, request: (model, request))
    assert use(odd).ask_first("render_prompt", request=1, model=2, template_args=3) == ("odd", (2, 1))


def test_the_first_answer_that_is_not_none_wins() -> None:
    asked: list[str] = []

    def answer(name: str, value: Any) -> Any:
        asked.append(name)
        return value

    made = [plugin(name, render_prompt=lambda name=name: answer(name, name)) for name in "ab"]
    none = plugin("none", render_prompt=lambda: answer("none", None))
    assert use(*made, none).ask_first("render_prompt", request=None, model=None, template_args={}) == ("b", "b")
    assert asked == ["none", "b"]


def test_no_answer_at_all() -> None:
    assert use(disable=["engines"]).ask_first("engine", model=None, options={}) is None
    assert use().ask("request_finished", request=None, usage=None, error=None) == []


def test_managers_share_nothing() -> None:
    one, other = use(Whisper, adding("loud", {"shout": int})), use()
    assert "shout" not in other.fields
    assert "Whisper" not in other.names
    assert other.request_type is ChatCompletionRequest
    assert "shout" not in ChatCompletionRequest.model_fields
    assert "shout" in one.request_type.model_fields


# --- fields that plugins add ------------------------------------------------------------------------------------------

LOUD = adding("loud", {"shout": float, "times": (int, Field(2, ge=1, description="How often."))})


def test_added_fields_are_validated() -> None:
    request = parse_request({**MESSAGES_ONLY, "shout": 0.5, "times": 3}, use(LOUD).request_type)
    assert (request.get("shout"), request.get("times")) == (0.5, 3)
    assert request.given() == {"messages": request.messages, "shout": 0.5, "times": 3}


@pytest.mark.parametrize(("field", "value"), [("shout", "very"), ("times", 0), ("times", "x")])
def test_a_wrong_value_of_an_added_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        parse_request({**MESSAGES_ONLY, field: value}, use(LOUD).request_type)
    assert caught.value.param == field
    assert repr(value) in caught.value.message


def test_added_fields_have_defaults() -> None:
    request = parse_request({**MESSAGES_ONLY, "shout": None}, use(LOUD).request_type)
    assert (request.get("shout"), request.get("times")) == (None, 2)
    assert request.given() == {"messages": request.messages}


def test_added_fields_are_in_the_json_schema() -> None:
    properties = use(LOUD).request_type.model_json_schema()["properties"]
    assert {"type": "number"} in properties["shout"]["anyOf"]
    assert {"type": "integer", "minimum": 1} in properties["times"]["anyOf"]
    assert (properties["times"]["default"], properties["times"]["description"]) == (2, "How often.")
    assert set(properties) == {*ChatCompletionRequest.model_json_schema()["properties"], "shout", "times"}


def test_a_mapping_may_name_fields_that_are_there_already() -> None:
    plugins = use(adding("mine", {"priority": str}))
    assert plugins.fields["priority"] == ("mine", "scheduling")
    assert plugins.request_type is ChatCompletionRequest


def test_two_plugins_may_answer_for_one_field() -> None:
    assert use(adding("a", ["shout"]), adding("b", ["shout"])).fields["shout"] == ("b", "a")


def test_two_plugins_cannot_add_one_field_with_two_types() -> None:
    with pytest.raises(PluginConflictError, match="request field 'shout'") as caught:
        use(adding("a", {"shout": int}), adding("b", {"shout": str}))
    assert set(caught.value.plugins) == {"a", "b"}
    assert use(adding("a", {"shout": int}), adding("b", {"shout": int})).fields["shout"] == ("b", "a")


def test_a_field_without_its_plugin_is_refused_by_name() -> None:
    from chatplan.compiler import check_fields

    request = parse_request({**MESSAGES_ONLY, "shout": 1})
    with pytest.raises(UnsupportedFieldError) as caught:
        check_fields(request, use(), {})
    assert caught.value.param == "shout"
    check_fields(request, use(adding("loud", ["shout"])), {})
