"""The conversation: every kind of message.

A message's kind is chosen by its ``role`` before it is validated, so an error names one place
(``messages[0].content``) and not every kind that did not fit. Keys that are not listed here are kept, because chat
templates may read them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from chatplan.content import AnyContent, AssistantContent, OpenModel, TextContent, UserContent

__all__ = [
    "AssistantMessage",
    "CustomMessage",
    "DeveloperMessage",
    "FunctionMessage",
    "Message",
    "SystemMessage",
    "ToolMessage",
    "UserMessage",
]


# --- calls that an assistant message carries --------------------------------------------------------------------------


def _arguments_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "<string>"
    return "<object>" if isinstance(value, dict) else None


Arguments = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[dict[str, Any], Tag("<object>")],
    Discriminator(
        _arguments_tag,
        custom_error_type="arguments",
        custom_error_message="Input should be a JSON string or an object",
    ),
]


class CalledFunction(OpenModel):
    """A function's name, and its arguments as a JSON string (an object is taken as well)."""

    name: str
    arguments: Arguments


class FunctionToolCall(OpenModel):
    """An earlier call of a function tool."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class CustomInput(OpenModel):
    """A custom tool's name, and its input as free text."""

    name: str
    input: str


class CustomToolCall(OpenModel):
    """An earlier call of a custom tool."""

    id: str | None = None
    type: Literal["custom"]
    custom: CustomInput


def _call_tag(value: Any) -> str:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return "<custom>" if kind == "custom" else "<function>"


PastToolCall = Annotated[
    Annotated[FunctionToolCall, Tag("<function>")] | Annotated[CustomToolCall, Tag("<custom>")],
    Discriminator(_call_tag),
]


class AudioReference(OpenModel):
    """An earlier spoken answer, by id."""

    id: str


# --- messages ---------------------------------------------------------------------------------------------------------


class DeveloperMessage(OpenModel):
    """Instructions from the application."""

    role: Literal["developer"]
    content: TextContent
    name: str | None = None


class SystemMessage(OpenModel):
    """Instructions that hold for the whole conversation."""

    role: Literal["system"]
    content: TextContent
    name: str | None = None


class UserMessage(OpenModel):
    """What the person said."""

    role: Literal["user"]
    content: UserContent
    name: str | None = None


class AssistantMessage(OpenModel):
    """What the model said earlier, or the beginning of what it is to say."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    name: str | None = None
    refusal: str | None = None
    audio: AudioReference | None = None
    tool_calls: list[PastToolCall] | None = None
    function_call: CalledFunction | None = Field(None, description="Deprecated: use tool_calls.")


class ToolMessage(OpenModel):
    """The result of the tool call named by ``tool_call_id``."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: str


class FunctionMessage(OpenModel):
    """The result of a function call, in the deprecated form."""

    role: Literal["function"]
    name: str
    content: str | None = None


class CustomMessage(OpenModel):
    """Any other role. What it means is up to the model's chat template."""

    role: str
    content: AnyContent | None = None
    name: str | None = None
    tool_call_id: str | None = None
    tool_calls: list[PastToolCall] | None = None


_ROLES = {role: f"<{role}>" for role in ("developer", "system", "user", "assistant", "tool", "function")}


def _message_tag(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else getattr(value, "role", None)
    return _ROLES.get(role, "<custom>") if isinstance(role, str) else "<custom>"


Message = Annotated[
    Annotated[DeveloperMessage, Tag("<developer>")]
    | Annotated[SystemMessage, Tag("<system>")]
    | Annotated[UserMessage, Tag("<user>")]
    | Annotated[AssistantMessage, Tag("<assistant>")]
    | Annotated[ToolMessage, Tag("<tool>")]
    | Annotated[FunctionMessage, Tag("<function>")]
    | Annotated[CustomMessage, Tag("<custom>")],
    Discriminator(_message_tag),
]
