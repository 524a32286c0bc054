"""A tool, from the call to the answer: the model asks for a function, we run it, the model tells what came of it.

python examples/weather_tools.py
"""

from __future__ import annotations

import json
import os
from typing import Any

from chatplan import pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
WEATHER = {
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
    },
}


def weather(city: str, unit: str) -> dict[str, Any]:
    """Here, a real service would be asked."""
    return {"sky": "sunny", "degrees": 21 if unit == "celsius" else 70}


FUNCTIONS = {"weather": weather}


def main() -> None:
    chat = pipeline("chat", model=MODEL, temperature=0, max_tokens=60)
    tools = [{"type": "function", "function": WEATHER}]
    messages: list[dict[str, Any]] = [{"role": "user", "content": "What is the weather in Bern?"}]

    # `required` is enforced: the call has the right form and the right arguments, on any model.
    message = chat(messages, tools=tools, tool_choice="required").choices[0].message
    messages.append({"role": "assistant", "tool_calls": [call.to_dict() for call in message.tool_calls]})
    for call in message.tool_calls:
        arguments = json.loads(call.function.arguments)
        result = FUNCTIONS[call.function.name](**arguments)
        shown = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        print(f"{call.function.name}({shown}) -> {result}")
        messages.append({"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)})

    # `none`: now it is to answer, and not to call again.
    answer = chat(messages, tools=tools, tool_choice="none")
    print(f"assistant: {answer.text}")


if __name__ == "__main__":
    main()
