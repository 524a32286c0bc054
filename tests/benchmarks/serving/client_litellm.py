"""litellm against a server: ``client_litellm.py URL MODEL KEY``, in an environment of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import checks
import litellm
from checks import MESSAGES, SCHEMA, TOOL

url, model, key = sys.argv[1:]
litellm.suppress_debug_info = True


def ask(**fields: Any) -> Any:
    common = {"model": f"openai/{model}", "api_base": f"{url}/v1", "api_key": key, "num_retries": 0}
    return litellm.completion(**common, messages=MESSAGES, **{"temperature": 0, "max_tokens": 120} | fields)


def chat() -> str:
    answer = ask(max_tokens=16)
    assert answer.usage.completion_tokens > 0
    return str(answer.choices[0].message.content)


def stream() -> str:
    text = "".join(chunk.choices[0].delta.content or "" for chunk in ask(max_tokens=16, stream=True))
    assert text
    return text


def tool() -> str:
    call = ask(tools=[TOOL], tool_choice="required").choices[0].message.tool_calls[0].function
    assert json.loads(call.arguments)["city"] in {"Paris", "Oslo"}
    return f"{call.name}{call.arguments}"


def json_schema() -> str:
    text: str = ask(response_format=SCHEMA).choices[0].message.content
    assert json.loads(text)["city"] in {"Paris", "Oslo"}
    return text


def error() -> str:
    try:
        ask(temperature=-1)
    except litellm.exceptions.BadRequestError as refused:
        return str(refused)
    raise AssertionError("a temperature of -1 was not refused")


checks.run({check.__name__: check for check in (chat, stream, tool, json_schema, error)})
