"""The openai client of Python against a server: ``client_openai.py URL MODEL KEY``."""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import checks
import openai
from checks import MESSAGES, TOOL
from pydantic import BaseModel

url, model, key = sys.argv[1:]
client = openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)


class Place(BaseModel):
    """What the answer has to be."""

    city: Literal["Paris", "Oslo"]


def models() -> str:
    return str([item.id for item in client.models.list()])


def chat() -> str:
    answer = client.chat.completions.create(model=model, messages=MESSAGES, temperature=0, max_tokens=16)
    assert answer.usage is not None
    assert answer.choices[0].message.content
    return f"{answer.choices[0].message.content} ({answer.usage.completion_tokens} tokens)"


def stream() -> str:
    texts, usage = [], None
    common: Any = {"model": model, "messages": MESSAGES, "temperature": 0, "max_tokens": 16}
    with client.chat.completions.create(**common, stream=True, stream_options={"include_usage": True}) as chunks:
        for chunk in chunks:
            usage = chunk.usage or usage
            texts += [choice.delta.content or "" for choice in chunk.choices]
    assert usage is not None
    assert "".join(texts)
    return "".join(texts)


def tool() -> str:
    answer = client.chat.completions.create(
        model=model, messages=MESSAGES, temperature=0, max_tokens=120, tools=[TOOL], tool_choice="required"
    )
    call = (answer.choices[0].message.tool_calls or [])[0]
    assert call.type == "function"
    assert json.loads(call.function.arguments)["city"] in {"Paris", "Oslo"}
    return f"{call.function.name}{call.function.arguments}"


def json_schema() -> str:
    answer = client.chat.completions.parse(
        model=model, messages=MESSAGES, temperature=0, max_tokens=120, response_format=Place
    )
    place = answer.choices[0].message.parsed
    assert place is not None
    return repr(place)


def more_fields() -> str:
    more = {"guided_regex": "[0-9]{3}", "top_k": 5, "ignore_eos": False}
    answer = client.chat.completions.create(model=model, messages=MESSAGES, max_tokens=8, seed=1, extra_body=more)
    text = answer.choices[0].message.content or ""
    assert text.isdigit(), text
    return text


def error() -> str:
    try:
        client.chat.completions.create(model=model, messages=MESSAGES, temperature=-1)
    except openai.BadRequestError as refused:
        if refused.param == "temperature":
            return str(refused)
        raise
    raise AssertionError("a temperature of -1 was not refused")


checks.run({check.__name__: check for check in (models, chat, stream, tool, json_schema, more_fields, error)})
