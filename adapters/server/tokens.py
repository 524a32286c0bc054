"""``/tokenize`` and ``/detokenize``, in vLLM's shapes."""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from chatplan.adapters.server.body import read_object
from chatplan.adapters.server.disconnects import unless_gone
from chatplan.adapters.server.gate import record_of, service_of
from chatplan.adapters.server.openapi import body_of
from chatplan.adapters.server.service import Service
from chatplan.errors import ModelNotFoundError, RequestError
from chatplan.request_rules import refusal

__all__ = ["Detokenize", "Tokenize", "router"]

router: APIRouter = APIRouter(tags=["tokens"])


class _Body(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    model: str | None = Field(None, description="The served model; absent means the one that is served.")


class Tokenize(_Body):
    """A text, or a conversation as the chat template renders it."""

    prompt: str | None = Field(None, description="The text; or give messages.")
    messages: list[Any] | None = Field(None, min_length=1, description="The conversation; or give prompt.")
    add_special_tokens: bool | None = Field(
        None, description="Let the tokenizer add special tokens; absent means true for a prompt, false for messages."
    )
    return_token_strs: bool = Field(False, description="Return the tokens as text, too.")
    add_generation_prompt: bool = Field(True, description="Ask the chat template to open the assistant's turn.")
    continue_final_message: bool = Field(False, description="Go on with the last message instead of a new one.")
    tools: list[Any] | None = Field(None, description="Functions the model may call.")
    chat_template: str | None = Field(None, description="A Jinja template to use instead of the model's.")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="More variables for the template.")


class Detokenize(_Body):
    """Token ids."""

    tokens: list[int] = Field(description="The ids to turn into text.")


class Tokenized(BaseModel):
    """The ids of a text, how many they are, and how many the model takes."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(BaseModel):
    """The text of token ids."""

    prompt: str


_T = TypeVar("_T", bound=_Body)
_CONVERSATION = (
    "messages add_special_tokens add_generation_prompt continue_final_message tools chat_template chat_template_kwargs"
).split()


@router.post("/tokenize", operation_id="tokenize", summary="Text to token ids", openapi_extra=body_of("Tokenize"))
async def tokenize(http: Request) -> Tokenized:
    """The token ids of a prompt, or of messages, and how many there are."""
    service = service_of(http)
    given = await _read(http, service, Tokenize)

    def work() -> tuple[list[int], list[str] | None]:
        ids = _encode(service, given)
        return ids, list(service.chat.model.tokenizer.convert_ids_to_tokens(ids)) if given.return_token_strs else None

    with service.counted(record_of(http).principal):
        ids, strings = await unless_gone(http, service.in_thread(work))
    context = service.chat.model.context_length
    return Tokenized(count=len(ids), max_model_len=context, tokens=ids, token_strs=strings)


@router.post("/detokenize", operation_id="detokenize", summary="Token ids to text", openapi_extra=body_of("Detokenize"))
async def detokenize(http: Request) -> Detokenized:
    """The text of token ids, special tokens included."""
    service = service_of(http)
    given = await _read(http, service, Detokenize)
    with service.counted(record_of(http).principal):
        text = await unless_gone(http, service.in_thread(lambda: _decode(service, given.tokens)))
    return Detokenized(prompt=text)


def _decode(service: Service, tokens: list[int]) -> str:
    width = service.chat.model.logits_width
    wrong = next((token for token in tokens if not 0 <= token < width), None)
    if wrong is not None:
        raise RequestError(f"token id {wrong} is not in the vocabulary of {width}", param="tokens")
    return str(service.chat.model.tokenizer.decode(tokens))


async def _read(http: Request, service: Service, shape: type[_T]) -> _T:
    data = await read_object(http, service.settings.max_body_bytes)
    try:
        given = shape.model_validate(data)
    except ValidationError as error:
        raise refusal(error) from None
    if given.model is not None and given.model not in (*service.names(), *service.chat.model.names):
        raise ModelNotFoundError(f"the model {given.model!r} does not exist", param="model")
    return given


def _encode(service: Service, given: Tokenize) -> list[int]:
    if (given.prompt is None) == (given.messages is None):
        raise RequestError("give either prompt or messages", param="prompt")
    if given.prompt is not None:
        special = given.add_special_tokens is not False
        return list(service.chat.model.tokenizer.encode(given.prompt, add_special_tokens=special))
    fields = given.model_dump(include=set(_CONVERSATION), exclude_unset=True)
    # One token of an answer, whatever the defaults say: all of the context is for the messages.
    return list(service.chat.plan(fields, max_tokens=1).prompt.token_ids)
