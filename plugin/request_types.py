"""What the fields of a request are made of: numbers, either-or values, and the nested objects."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    TypeAdapter,
    model_validator,
)
from pydantic_core import PydanticCustomError

from chatplan.schemas.closing import can_close, closed_schema

__all__ = [
    "FunctionDefinition",
    "JsonSchemaFormat",
    "NamedToolChoice",
    "ResponseFormat",
    "StreamOptions",
    "StructuredOutputs",
    "Tool",
]

# --- numbers ----------------------------------------------------------------------------------------------------------


def _int_of(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# Strict refuses true and "3"; a JSON writer that has only one kind of number may still send 1.0 for 1.
_WHOLE = BeforeValidator(_int_of)
Int = Annotated[int, Strict(), _WHOLE]
Float = Annotated[float, Strict(), Field(allow_inf_nan=False)]
NonEmptyStr = Annotated[str, Field(min_length=1)]
# The range stands before _WHOLE, or pydantic would leave it out of the JSON schema.
PositiveInt = Annotated[int, Strict(), Field(ge=1), _WHOLE]
TokenId = Annotated[int, Strict(), Field(ge=0), _WHOLE]
CountOrAll = Annotated[int, Strict(), Field(ge=-1), _WHOLE]
Int64 = Annotated[int, Strict(), Field(ge=-(2**63), le=2**63 - 1), _WHOLE]

# Several spellings of "off" become one, so that a field that is off compares equal to its default.
Seed = Annotated[Int64, AfterValidator(lambda value: None if value == -1 else value)]
TokenBudget = Annotated[CountOrAll, AfterValidator(lambda value: None if value == -1 else value)]
TopK = Annotated[CountOrAll, AfterValidator(lambda value: value if value else -1)]


def _token_id(key: Any) -> int:
    # JSON has only string keys; Python callers may use numbers.
    text = str(key)
    if isinstance(key, bool) or not (text.isascii() and text.isdigit()):
        raise PydanticCustomError("token_id", "key should be a token id, a whole number from 0")
    return int(text)


BiasKey = Annotated[int, BeforeValidator(_token_id)]
Bias = Annotated[Float, AfterValidator(lambda value: min(100.0, max(-100.0, value)))]

# --- values of one kind or another ------------------------------------------------------------------------------------
# A tag chosen up front gives one error for the kind that was meant, instead of one for every kind there is.


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "<string>"
    if isinstance(value, (list, tuple)):
        return "<list>"
    return "<object>" if isinstance(value, (dict, BaseModel)) else None


def _expect(what: str) -> Discriminator:
    return Discriminator(_kind, custom_error_type="kind", custom_error_message=f"Input should be {what}")


_String = Annotated[str, Tag("<string>")]
_Object = Annotated[dict[str, Any], Tag("<object>")]
StringOrList = Annotated[
    _String | Annotated[list[str], Tag("<list>")],
    _expect("a string or a list of strings"),
]
StringOrObject = Annotated[_String | _Object, _expect("an object, or a string that holds one")]


def _schema_of(value: Any) -> Any:
    """In Python, a type stands for its JSON schema: a pydantic model, a dataclass, an enum, ``list[Model]``.

    Objects then have no keys but the type's own, unless it says that it allows others.
    """
    if not isinstance(value, type) and get_origin(value) is None:
        return value
    schema = TypeAdapter(value).json_schema()
    return closed_schema(schema, "") if can_close(schema) else schema


Schema = Annotated[StringOrObject, BeforeValidator(_schema_of, json_schema_input_type=StringOrObject)]

# --- nested objects ---------------------------------------------------------------------------------------------------


def without_nulls(data: Any) -> Any:
    """A copy of the object ``data`` without its keys that are null: null means absent. Anything else as it is."""
    return {key: value for key, value in data.items() if value is not None} if isinstance(data, dict) else data


_NOTHINGS = {"response_format": {"type": "text"}, "tools": []}


def without_nothings(data: Any) -> Any:
    """The same, and without what clients send by default and what asks for nothing: plain text, no tools."""
    given = without_nulls(data)
    if not isinstance(given, dict):
        return given
    return {key: value for key, value in given.items() if key not in _NOTHINGS or value != _NOTHINGS[key]}


def nullable_schema(schema: dict[str, Any]) -> None:
    """Say in a JSON schema that every property that is not required may be null."""
    for name, prop in schema.get("properties", {}).items():
        null_known = {"type": "null"} in prop.get("anyOf", [])
        if name not in schema.get("required", []) and not null_known:
            kept = {key: prop.pop(key) for key in ("title", "description", "default", "examples") if key in prop}
            inner = dict(prop)
            prop.clear()
            prop.update({"anyOf": [inner, {"type": "null"}], **kept})


class _Options(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        extra="forbid", populate_by_name=True, json_schema_extra=nullable_schema
    )

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, data: Any) -> Any:
        return without_nulls(data)


class StreamOptions(_Options):
    """How a stream reports token counts."""

    include_usage: bool = Field(True, description="Send one more chunk at the end, with the counts of all choices.")
    continuous_usage_stats: bool = Field(
        False, description="Put each choice's running counts on every chunk; needs include_usage."
    )

    @model_validator(mode="after")
    def _stats_need_usage(self) -> StreamOptions:
        if self.continuous_usage_stats and not self.include_usage:
            raise PydanticCustomError("request_rule", "continuous_usage_stats=true needs include_usage=true")
        return self


class JsonSchemaFormat(_Options):
    """A JSON schema for the answer. The key ``schema`` is the attribute ``json_schema``."""

    name: str
    description: str | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(_Options):
    """What the answer must look like. A structural tag has a ``format``, or ``structures`` and ``triggers``."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchemaFormat | None = None
    format: dict[str, Any] | None = None
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None

    @model_validator(mode="after")
    def _keys_where_they_belong(self) -> ResponseFormat:
        tagged = self.format is not None or (self.structures is not None and self.triggers is not None)
        if self.type == "json_schema" and (self.json_schema is None or self.json_schema.json_schema is None):
            raise PydanticCustomError("request_rule", "type json_schema needs the key json_schema with the schema")
        if self.type == "structural_tag" and not tagged:
            raise PydanticCustomError("request_rule", "type structural_tag needs format, or structures and triggers")
        keys = {"type", *_FORMAT_KEYS.get(self.type, ())}
        for name in self.model_fields_set - keys:
            raise PydanticCustomError("request_rule", "{reason}", {"reason": f"type {self.type} has no key {name}"})
        return self


_FORMAT_KEYS = {"json_schema": ("json_schema",), "structural_tag": ("format", "structures", "triggers")}


class FunctionDefinition(_Options):
    """A function the model may call; ``parameters`` is the JSON schema of its arguments. Templates see every key."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    name: NonEmptyStr
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Options):
    """A tool the model may call."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    type: Literal["function"] = "function"
    function: FunctionDefinition


class NamedFunction(_Options):
    """The name of a function in ``tools``."""

    name: NonEmptyStr


class NamedToolChoice(_Options):
    """``{"type": "function", "function": {"name": …}}``: call this tool."""

    type: Literal["function"] = "function"
    function: NamedFunction


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("<string>")] | Annotated[NamedToolChoice, Tag("<object>")],
    _expect('\'none\', \'auto\', \'required\' or {"type": "function", "function": {"name": "…"}}'),
]


class StructuredOutputs(_Options):
    """One constraint on the answer. The key ``json`` is the attribute ``json_schema``."""

    json_schema: Schema | None = Field(None, alias="json", description="A JSON schema.")
    regex: str | None = Field(None, description="A regular expression that the whole answer matches.")
    choice: list[str] | None = Field(None, min_length=1, description="The answer is one of these.")
    grammar: str | None = Field(None, description="A context-free grammar.")
    json_object: bool | None = Field(None, description="Any JSON object.")
    structural_tag: StringOrObject | None = Field(None, description="Constraints that begin at given tags.")
    disable_any_whitespace: bool = Field(False, description="No whitespace between JSON tokens.")
    disable_additional_properties: bool = Field(False, description="No keys that the schema does not list.")
    whitespace_pattern: str | None = Field(None, description="A regular expression for whitespace in JSON.")

    @property
    def kinds(self) -> list[str]:
        """The constraints that are set, by their keys in JSON; exactly one after validation."""
        constraints = {
            "json": self.json_schema,
            "regex": self.regex,
            "choice": self.choice,
            "grammar": self.grammar,
            "json_object": self.json_object or None,
            "structural_tag": self.structural_tag,
        }
        return [kind for kind, value in constraints.items() if value is not None]

    @model_validator(mode="after")
    def _exactly_one(self) -> StructuredOutputs:
        if len(self.kinds) != 1:
            raise PydanticCustomError(
                "request_rule",
                "needs exactly one of json, regex, choice, grammar, json_object, structural_tag; it has {given}",
                {"given": ", ".join(self.kinds) or "none"},
            )
        return self
