"""Messages and content parts: every kind, what each refuses, and what is kept for chat templates."""

from __future__ import annotations

from typing import Any

import pytest

from chatplan.errors import RequestError
from chatplan.messages import (
    AssistantMessage,
    CustomMessage,
    DeveloperMessage,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from chatplan.request import parse_request

TEXT = {"type": "text", "text": "hi"}
REFUSAL = {"type": "refusal", "refusal": "no"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}
FILE = {"type": "file", "file": {"file_data": "AA", "filename": "a.pdf"}}
AUDIO_URL = {"type": "audio_url", "audio_url": {"url": "https://x/a.wav"}}
VIDEO_URL = {"type": "video_url", "video_url": {"url": "https://x/a.mp4"}}
BARE = [{"image_url": "https://x/i"}, {"audio_url": "https://x/a"}, {"video_url": "https://x/v"}]
MEDIA = [IMAGE, AUDIO, FILE, AUDIO_URL, VIDEO_URL, *BARE]
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
CUSTOM_CALL = {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "text"}}


def parse(message: Any) -> Message:
    return parse_request({"messages": [message]}).messages[0]


def refused(message: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse(message)
    return caught.value


KINDS: list[tuple[dict[str, Any], type]] = [
    ({"role": "developer", "content": "x"}, DeveloperMessage),
    ({"role": "developer", "content": [TEXT, "bare"], "name": "n"}, DeveloperMessage),
    ({"role": "system", "content": "x"}, SystemMessage),
    ({"role": "system", "content": [TEXT], "name": None}, SystemMessage),
    ({"role": "user", "content": "x"}, UserMessage),
    ({"role": "user", "content": []}, UserMessage),
    ({"role": "user", "content": [TEXT, "bare", *MEDIA], "name": "n"}, UserMessage),
    ({"role": "assistant"}, AssistantMessage),
    ({"role": "assistant", "content": None}, AssistantMessage),
    ({"role": "assistant", "content": [TEXT, REFUSAL], "refusal": "no", "audio": {"id": "a"}}, AssistantMessage),
    ({"role": "assistant", "content": "", "tool_calls": [CALL, CUSTOM_CALL]}, AssistantMessage),
    ({"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}, AssistantMessage),
    ({"role": "tool", "content": "4", "tool_call_id": "c1"}, ToolMessage),
    ({"role": "tool", "content": [TEXT], "tool_call_id": "c1"}, ToolMessage),
    ({"role": "function", "name": "f", "content": "4"}, FunctionMessage),
    ({"role": "function", "name": "f", "content": None}, FunctionMessage),
    ({"role": "narrator"}, CustomMessage),
    ({"role": "narrator", "content": [TEXT, REFUSAL, "bare", *MEDIA], "name": "n"}, CustomMessage),
    ({"role": "narrator", "content": "x", "tool_call_id": "c1", "tool_calls": [CALL]}, CustomMessage),
    ({"role": "User", "content": "x"}, CustomMessage),
]


@pytest.mark.parametrize(("message", "kind"), KINDS, ids=str)
def test_kind_and_keys_are_kept(message: dict[str, Any], kind: type) -> None:
    parsed = parse(message)
    assert type(parsed) is kind
    assert parsed.model_dump(exclude_unset=True) == message


WRONG: list[tuple[Any, str, str]] = [
    (3, "messages[0]", "should be an object, got 3"),
    ({}, "messages[0].role", "is required"),
    ({"content": "x"}, "messages[0].role", "is required"),
    ({"role": 3, "content": "x"}, "messages[0].role", "should be a string, got 3"),
    ({"role": "user"}, "messages[0].content", "is required"),
    ({"role": "system"}, "messages[0].content", "is required"),
    ({"role": "developer"}, "messages[0].content", "is required"),
    ({"role": "tool", "tool_call_id": "c"}, "messages[0].content", "is required"),
    ({"role": "tool", "content": "x"}, "messages[0].tool_call_id", "is required"),
    ({"role": "function", "content": "x"}, "messages[0].name", "is required"),
    ({"role": "function", "name": "f", "content": [TEXT]}, "messages[0].content", "should be a string"),
    ({"role": "user", "content": None}, "messages[0].content", "a string or a list of content parts, got None"),
    ({"role": "user", "content": 3}, "messages[0].content", "a string or a list of content parts, got 3"),
    ({"role": "user", "content": TEXT}, "messages[0].content", "a string or a list of content parts"),
    ({"role": "user", "content": "x", "name": 3}, "messages[0].name", "should be a string, got 3"),
    ({"role": "assistant", "audio": {}}, "messages[0].audio.id", "is required"),
    ({"role": "assistant", "tool_calls": CALL}, "messages[0].tool_calls", "should be a list"),
    ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call.arguments", "is required"),
]


@pytest.mark.parametrize(("message", "param", "words"), WRONG, ids=[str(case[0]) for case in WRONG])
def test_refused(message: Any, param: str, words: str) -> None:
    error = refused(message)
    assert error.param == param
    assert words in error.message
    assert ";" not in error.message


PARTS: list[tuple[Any, str, str]] = [
    ({"type": "text"}, ".text", "is required"),
    ({"type": "text", "text": 3}, ".text", "should be a string, got 3"),
    ({"type": "image_url"}, ".image_url", "is required"),
    ({"type": "image_url", "image_url": {}}, ".image_url.url", "is required"),
    ({"type": "image_url", "image_url": "https://x"}, ".image_url", "should be an object, got 'https://x'"),
    ({"type": "input_audio", "input_audio": {"format": "wav"}}, ".input_audio.data", "is required"),
    ({"type": "input_audio", "input_audio": {"data": "A", "format": "ogg"}}, ".input_audio.format", "'wav' or 'mp3'"),
    ({"type": "file"}, ".file", "is required"),
    ({"type": "refusal"}, ".refusal", "is required"),
    ({"type": "audio_url", "audio_url": {}}, ".audio_url.url", "is required"),
    ({"type": "video_url", "video_url": {}}, ".video_url.url", "is required"),
    ({"image_url": 3}, ".image_url", "should be a string, got 3"),
    ({"type": "smell"}, "", "type text, refusal, image_url, input_audio, file, audio_url, video_url"),
    ({"type": "string"}, "", "should be a content part"),
    ({"type": "bare image_url", "image_url": "https://x"}, "", "should be a content part"),
    ({"type": ["text"]}, "", "should be a content part"),
    ({}, "", "should be a content part"),
    (3, "", "should be a content part"),
    (None, "", "should be a content part"),
]


@pytest.mark.parametrize(("part", "path", "words"), PARTS, ids=[str(case[0]) for case in PARTS])
def test_part_refused(part: Any, path: str, words: str) -> None:
    error = refused({"role": "narrator", "content": ["fine", part]})
    assert error.param == f"messages[0].content[1]{path}"
    assert words in error.message
    assert ";" not in error.message


@pytest.mark.parametrize("role", ["developer", "system", "tool"])
@pytest.mark.parametrize("part", [REFUSAL, *MEDIA], ids=str)
def test_text_only_roles(role: str, part: Any) -> None:
    error = refused({"role": role, "content": [part], "tool_call_id": "c"})
    assert error.param == "messages[0].content[0]"
    assert "a string or type text, got" in error.message


@pytest.mark.parametrize(("role", "part"), [("user", REFUSAL), *(("assistant", part) for part in MEDIA)], ids=str)
def test_parts_of_the_other_side(role: str, part: Any) -> None:
    assert refused({"role": role, "content": [part]}).param == "messages[0].content[0]"


CALLS: list[tuple[Any, str]] = [
    (3, ""),
    ({"id": "c", "type": "function"}, ".function"),
    ({"type": "other", "function": {"name": "f", "arguments": "{}"}}, ".type"),
    ({"id": "c", "type": "function", "function": {"arguments": "{}"}}, ".function.name"),
    ({"id": "c", "type": "function", "function": {"name": "f"}}, ".function.arguments"),
    ({"id": "c", "type": "function", "function": {"name": "f", "arguments": 3}}, ".function.arguments"),
    ({"id": 3, "type": "function", "function": {"name": "f", "arguments": "{}"}}, ".id"),
    ({"id": "c", "type": "custom", "custom": {"name": "g"}}, ".custom.input"),
]


@pytest.mark.parametrize(("call", "path"), CALLS, ids=str)
@pytest.mark.parametrize("role", ["assistant", "narrator"])
def test_tool_call_refused(role: str, call: Any, path: str) -> None:
    assert refused({"role": role, "tool_calls": [CALL, call]}).param == f"messages[0].tool_calls[1]{path}"


@pytest.mark.parametrize("arguments", ["", "{}", "not json", {}, {"a": [1, None]}])
def test_arguments_are_kept_as_they_came(arguments: Any) -> None:
    message = parse({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]})
    assert isinstance(message, AssistantMessage)
    assert message.tool_calls is not None
    assert message.tool_calls[0].model_dump()["function"]["arguments"] == arguments


def test_unknown_keys_are_kept_for_templates() -> None:
    message = {"role": "assistant", "content": [{**TEXT, "cache": True}], "reasoning_content": "hm", "weight": 0}
    assert parse(message).model_dump(exclude_unset=True) == message


def test_message_objects_are_taken_as_they_are() -> None:
    message = UserMessage(role="user", content="x")
    assert parse(message) is message


def test_the_error_counts_messages_from_zero() -> None:
    fine = {"role": "user", "content": "x"}
    with pytest.raises(RequestError) as caught:
        parse_request({"messages": [fine, fine, {"role": "user", "content": [TEXT, {"type": "image_url"}]}]})
    assert caught.value.param == "messages[2].content[1].image_url"
