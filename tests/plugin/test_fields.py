"""The one table of fields: every field has a place in it, and plugins' fields come by themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from chatplan import ChatCompletionRequest, Plugins, hookimpl
from chatplan.fields import GROUPS, group_of, request_schema


class Loud:
    """A plugin with a field of its own."""

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"loud": float}


def test_every_built_in_field_stands_in_exactly_one_group() -> None:
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(ChatCompletionRequest.model_fields)


def test_a_property_of_the_schema_says_its_group_its_plugin_and_who_refuses_it() -> None:
    schema = request_schema(Plugins(installed=False))
    min_p = schema["properties"]["min_p"]
    assert (min_p["x-group"], min_p["x-plugins"]) == ("sampling", ["filters"])
    assert set(min_p["x-refused"]) == {"tgi"}
    assert "x-refused" not in schema["properties"]["temperature"]
    assert all(prop["x-group"] in GROUPS and prop["x-plugins"] for prop in schema["properties"].values())


def test_a_field_of_a_plugin_stands_in_a_group_of_the_plugins_name() -> None:
    plugins = Plugins([Loud], installed=False)
    assert request_schema(plugins)["properties"]["loud"]["x-group"] == "Loud"
    assert group_of("seed", plugins) == "sampling"


def test_a_field_whose_plugin_is_left_out_keeps_its_group() -> None:
    plugins = Plugins(disable=["filters"], installed=False)
    min_p = request_schema(plugins)["properties"]["min_p"]
    assert (min_p["x-group"], min_p["x-plugins"]) == ("sampling", [])


class Soft:
    """A plugin whose field is described at its type."""

    @hookimpl
    def request_fields(self) -> Mapping[str, Any]:
        return {"soft": Annotated[float, Field(ge=0, description="How soft.", examples=[0.5])]}


def test_what_a_type_says_of_itself_stands_at_the_property() -> None:
    soft = request_schema(Plugins([Soft], installed=False))["properties"]["soft"]
    assert (soft["description"], soft["examples"]) == ("How soft.", [0.5])
    assert soft["anyOf"] == [{"minimum": 0, "type": "number"}, {"type": "null"}]
