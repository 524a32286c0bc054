"""What the handler can be told: by ``CHATPLAN_*`` variables, and by a file in the model's repository."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, field_validator

from chatplan.request_rules import refusal
from chatplan.settings import Settings

__all__ = ["FILE", "HandlerSettings", "read_settings"]

FILE = "chatplan_settings.json"
_PREFIX = "CHATPLAN_"


class HandlerSettings(BaseModel):
    """How the model is loaded; beside these, every field of :class:`chatplan.Settings`.

    Names and values are those of ``chatplan serve``, so one environment configures both.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", protected_namespaces=())

    served_model_name: str = Field("", description="What requests may call the model, and answers say.")
    plugins: list[Any] = Field([], description="Plugins to add, by dotted name; in Python also objects.")
    disable: list[str] = Field([], description="Names of plugins to leave out.")
    engine: str = Field("auto", description="The engine: auto, generate, continuous, or one that a plugin offers.")
    dtype: str = Field("auto", description="The type of the weights: auto, float32, bfloat16, float16.")
    device: str | None = Field(None, description="Where the model runs; absent takes a GPU if there is one.")
    device_map: str | None = Field(None, description="How accelerate places the layers: auto, balanced, sequential.")
    defaults: dict[str, Any] = Field({}, description="Values for request fields that a conversation leaves out.")

    @field_validator("plugins", "disable", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        """``a,b`` is what a variable can say."""
        if not isinstance(value, str):
            return value
        return [name for name in (part.strip() for part in value.split(",")) if name]

    @field_validator("defaults", mode="before")
    @classmethod
    def _from_json(cls, value: Any) -> Any:
        return json.loads(value) if isinstance(value, str) else value

    @property
    def chat_settings(self) -> dict[str, Any]:
        """The fields of :class:`chatplan.Settings`."""
        return {item.name: getattr(self, item.name) for item in dataclasses.fields(Settings)}


_hints = get_type_hints(Settings)
_AllSettings: type[HandlerSettings] = create_model(
    "_AllSettings",
    __base__=HandlerSettings,
    **{item.name: (_hints[item.name], item.default) for item in dataclasses.fields(Settings)},  # type: ignore[call-overload]
)


def read_settings(model_dir: str | os.PathLike[str], given: Mapping[str, Any]) -> HandlerSettings:
    """What ``given`` says; where it is silent, variables of the environment; and then the file in ``model_dir``.

    Raises:
        RequestError: a value is not valid, or the file has a key that is no setting; it names the setting.
        ValueError: the file is no JSON object.
    """
    file = Path(model_dir, FILE)
    stated = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    if not isinstance(stated, dict):
        raise ValueError(f"{FILE}: should be an object")
    try:
        return _AllSettings(**{**stated, **_environment(), **given})
    except ValidationError as error:
        raise refusal(error) from None


def _environment() -> dict[str, str]:
    """Variables that name a setting; others with the prefix are for other programs. An empty one is unset."""
    found = {name: os.environ.get(_PREFIX + name.upper(), "") for name in _AllSettings.model_fields}
    return {name: value for name, value in found.items() if value}
