"""What a message's ``content`` may be: a string, or a list of parts.

A part's kind is chosen by its ``type`` before it is validated, so an error names one place in one part. Keys that are
not listed here are kept, because chat templates and processors may read them.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Tag

__all__ = ["AnyContent", "AssistantContent", "OpenModel", "TextContent", "UserContent"]


class OpenModel(BaseModel):
    """Keeps the keys it does not know."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")


class TextPart(OpenModel):
    """Plain text."""

    type: Literal["text"]
    text: str


class ImageUrl(OpenModel):
    """Where an image is: an http(s) or data URL."""

    url: str
    detail: str | None = None


class ImagePart(OpenModel):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class InputAudio(OpenModel):
    """Sound, base64."""

    data: str
    format: Literal["wav", "mp3"]


class InputAudioPart(OpenModel):
    """Sound that travels inside the request."""

    type: Literal["input_audio"]
    input_audio: InputAudio


class FileSource(OpenModel):
    """A file: its base64 data, or the id of an uploaded one."""

    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class FilePart(OpenModel):
    """A file."""

    type: Literal["file"]
    file: FileSource


class RefusalPart(OpenModel):
    """What the assistant said when it refused."""

    type: Literal["refusal"]
    refusal: str


class MediaUrl(OpenModel):
    """Where sound or video is: an http(s) or data URL."""

    url: str


class AudioUrlPart(OpenModel):
    """Sound by URL."""

    type: Literal["audio_url"]
    audio_url: MediaUrl


class VideoUrlPart(OpenModel):
    """Video by URL."""

    type: Literal["video_url"]
    video_url: MediaUrl


class BareImagePart(OpenModel):
    """``{"image_url": "https://…"}``, without a type."""

    image_url: str


class BareAudioPart(OpenModel):
    """``{"audio_url": "https://…"}``, without a type."""

    audio_url: str


class BareVideoPart(OpenModel):
    """``{"video_url": "https://…"}``, without a type."""

    video_url: str


# Tags are written <like this> so that an error's path can tell them from keys of the request.
_TYPES = {
    name: f"<{name}>" for name in ("text", "image_url", "input_audio", "file", "refusal", "audio_url", "video_url")
}
_BARE = {name: f"<bare {name}>" for name in ("image_url", "audio_url", "video_url")}


def _part_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "<string>"
    keys = value.__dict__ if isinstance(value, BaseModel) else value
    if not isinstance(keys, dict):
        return None
    if "type" in keys:
        return _TYPES.get(str(keys["type"]))
    return next((tag for name, tag in _BARE.items() if name in keys), None)


def _one_of(allowed: str) -> Discriminator:
    return Discriminator(
        _part_tag, custom_error_type="content_part", custom_error_message=f"Input should be a content part: {allowed}"
    )


_Text = Annotated[str, Tag("<string>")] | Annotated[TextPart, Tag("<text>")]
_Refusal = Annotated[RefusalPart, Tag("<refusal>")]
_Media = (
    Annotated[ImagePart, Tag("<image_url>")]
    | Annotated[InputAudioPart, Tag("<input_audio>")]
    | Annotated[FilePart, Tag("<file>")]
    | Annotated[AudioUrlPart, Tag("<audio_url>")]
    | Annotated[VideoUrlPart, Tag("<video_url>")]
    | Annotated[BareImagePart, Tag("<bare image_url>")]
    | Annotated[BareAudioPart, Tag("<bare audio_url>")]
    | Annotated[BareVideoPart, Tag("<bare video_url>")]
)
_MEDIA_TYPES = "image_url, input_audio, file, audio_url, video_url"

TextOnly = Annotated[_Text, _one_of("a string or type text")]
AssistantPart = Annotated[_Text | _Refusal, _one_of("a string or type text, refusal")]
UserPart = Annotated[_Text | _Media, _one_of(f"a string or type text, {_MEDIA_TYPES}")]
ContentPart = Annotated[_Text | _Media | _Refusal, _one_of(f"a string or type text, refusal, {_MEDIA_TYPES}")]


def _content_tag(value: Any) -> str | None:
    if isinstance(value, str):
        return "<string>"
    return "<parts>" if isinstance(value, (list, tuple)) else None


_string_or_parts = Discriminator(
    _content_tag,
    custom_error_type="content",
    custom_error_message="Input should be a string or a list of content parts",
)
TextContent = Annotated[Annotated[str, Tag("<string>")] | Annotated[list[TextOnly], Tag("<parts>")], _string_or_parts]
AssistantContent = Annotated[
    Annotated[str, Tag("<string>")] | Annotated[list[AssistantPart], Tag("<parts>")], _string_or_parts
]
UserContent = Annotated[Annotated[str, Tag("<string>")] | Annotated[list[UserPart], Tag("<parts>")], _string_or_parts]
AnyContent = Annotated[Annotated[str, Tag("<string>")] | Annotated[list[ContentPart], Tag("<parts>")], _string_or_parts]
