"""From the conversation to token ids: messages, and everything that steers the chat template."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from chatplan.errors import RequestError
from chatplan.generic_tools import as_plain_messages, is_about_calls, with_tool_prompt
from chatplan.hookspecs import hookimpl
from chatplan.model import ModelInfo
from chatplan.plan import Prompt
from chatplan.request import ChatCompletionRequest
from chatplan.templates import content_format, template_mentions, template_of, template_variables

# What `apply_chat_template` takes for itself, and does not hand to the template.
_RENDERER = frozenset(
    "conversation chat_template tokenize padding truncation max_length return_tensors return_dict "
    "return_assistant_tokens_mask tokenizer_kwargs".split()
)
_TEXT_KEYS = {"text": "text", "refusal": "refusal"}


@hookimpl
def request_fields() -> Collection[str]:
    return [
        "messages",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "documents",
        "chat_template",
        "chat_template_kwargs",
        "echo",
    ]


@hookimpl
def template_args(request: ChatCompletionRequest, model: ModelInfo) -> Mapping[str, Any] | None:
    """The standard variables; ``chat_template_kwargs`` override them."""
    args: dict[str, Any] = {
        "add_generation_prompt": request.add_generation_prompt,
        "continue_final_message": request.continue_final_message,
    }
    if request.chat_template is not None:
        args["chat_template"] = request.chat_template
    if request.documents is not None:
        args["documents"] = request.documents
    return {**args, **(request.chat_template_kwargs or {})}


@hookimpl
def check_request(request: ChatCompletionRequest, model: ModelInfo) -> None:
    """Documents need a template that reads them; variables must not be the renderer's own arguments."""
    for name in request.chat_template_kwargs or ():
        if name in _RENDERER:
            raise RequestError(f"{name} is no template variable", param=f"chat_template_kwargs.{name}")
    if request.chat_template is not None and not model.settings.trust_request_chat_template:
        raise RequestError(
            "is not taken from requests here (the setting trust_request_chat_template)", param="chat_template"
        )
    if request.documents is None:
        return
    if "documents" not in template_variables(template_of(model, request.chat_template)):
        raise RequestError(
            "this chat template does not read documents; pass a chat_template that does", param="documents"
        )


@hookimpl(trylast=True)
def render_prompt(request: ChatCompletionRequest, model: ModelInfo, template_args: Mapping[str, Any]) -> Prompt | None:
    """Text-only rendering by ``tokenizer.apply_chat_template``; a plugin for other media comes before it."""
    args = dict(template_args)
    template = template_of(model, args.pop("chat_template", None), args.get("tools"))
    conversation = _conversation(request, template)
    if "tools" in template_variables(template):
        text = _render(request, model, conversation, {**args, "chat_template": template})
    else:
        tools = args.pop("tools", ())
        conversation, text = _render_plain(request, model, conversation, tools, {**args, "chat_template": template})
    if not _is_text(text):
        raise RequestError("half of a surrogate pair is no text", param="messages")
    ids = model.tokenizer.encode(text, add_special_tokens=request.add_special_tokens)
    if not ids:
        raise RequestError("the rendered conversation is empty", param="messages")
    last = conversation[-1]
    role = "assistant" if args.get("add_generation_prompt") else str(last["role"])
    echo = _text_of(last["content"]) if request.echo and role == last["role"] else ""
    return Prompt(
        tuple(ids[-request.truncate_prompt_tokens :] if request.truncate_prompt_tokens else ids), text, role, echo
    )


def _is_text(text: str) -> bool:
    """Whether UTF-8 can hold it; in Python and in JSON a string may be less than text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _render(
    request: ChatCompletionRequest, model: ModelInfo, conversation: list[dict[str, Any]], args: Mapping[str, Any]
) -> str:
    try:
        return str(model.tokenizer.apply_chat_template(conversation, tokenize=False, **args))
    except Exception as error:  # templates raise what they like, and Jinja wraps little of it
        param = "messages" if request.chat_template is None else "chat_template"
        raise RequestError(f"the chat template fails: {type(error).__name__}: {error}", param=param) from error


def _conversation(request: ChatCompletionRequest, template: str) -> list[dict[str, Any]]:
    """Messages as templates expect them: plain dicts, with content in the form that this template reads."""
    wants_list = content_format(template) == "list"
    messages = [
        _message(at, message.model_dump(exclude_unset=True), wants_list) for at, message in enumerate(request.messages)
    ]
    return messages if template_mentions(template, "developer") else _developer_as_system(messages)


def _render_plain(
    request: ChatCompletionRequest,
    model: ModelInfo,
    conversation: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    args: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], str]:
    """For a template that reads no tools: they become text, and so do calls that it cannot read."""
    template = str(args["chat_template"])
    foreign = "tool" not in template and any(map(is_about_calls, conversation))
    if not tools and not foreign:
        return conversation, _render(request, model, conversation, args)
    plain = [{**message, "content": _text_of(message["content"])} for message in conversation]
    plain = as_plain_messages(plain) if foreign else plain
    wants_list = content_format(template) == "list"
    versions = [_in_form(with_tool_prompt(plain, tools, role), wants_list) for role in ("system", "user")]
    try:
        return versions[0], _render(request, model, versions[0], args)
    except RequestError:  # some templates refuse system messages
        return versions[1], _render(request, model, versions[1], args)


def _in_form(messages: list[dict[str, Any]], wants_list: bool) -> list[dict[str, Any]]:
    if not wants_list:
        return messages
    return [{**message, "content": [{"type": "text", "text": message["content"]}]} for message in messages]


def _message(at: int, message: dict[str, Any], wants_list: bool) -> dict[str, Any]:
    parts = _parts(at, message.get("content"))
    if wants_list:
        message["content"] = [{"type": "text", "text": text} for text in parts]
    else:
        message["content"] = "\n".join(parts)
    if message.get("tool_calls"):
        message["tool_calls"] = [_call(at, number, call) for number, call in enumerate(message["tool_calls"])]
    else:
        message.pop("tool_calls", None)
    return message


def _parts(at: int, content: str | Sequence[Any] | None) -> list[str]:
    """The texts of a message's parts. This renderer reads text only, and says which part is not."""
    if content is None or isinstance(content, str):
        return [content] if content else []
    texts = []
    for number, part in enumerate(content):
        if isinstance(part, str):
            texts.append(part)
            continue
        key = _TEXT_KEYS.get(part.get("type", ""))
        if key is None:
            kind = part.get("type") or next(iter(part))
            raise RequestError(
                f"this model reads text only, got a part of type {kind}", param=f"messages[{at}].content[{number}]"
            )
        texts.append(part[key])
    return [text for text in texts if text]


def _call(at: int, number: int, call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its arguments as an object, as templates print them."""
    function = call.get("function")
    if function is None or isinstance(function.get("arguments"), dict):
        return call
    where = f"messages[{at}].tool_calls[{number}].function.arguments"
    try:
        arguments = json.loads(function.get("arguments") or "{}")
    except ValueError as error:
        raise RequestError(f"is no JSON: {error}", param=where) from error
    if not isinstance(arguments, dict):
        raise RequestError("must be a JSON object", param=where)
    return {**call, "function": {**function, "arguments": arguments}}


def _developer_as_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For templates that know no developer: its messages are system messages, joined with one right before them."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        previous = merged[-1] if merged else None
        if message["role"] != "developer":
            merged.append(message)
        elif previous is not None and previous["role"] == "system":
            previous["content"] = f"{_text_of(previous['content'])}\n\n{_text_of(message['content'])}"
        else:
            merged.append({**message, "role": "system"})
    return merged


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
