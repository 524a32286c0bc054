"""LangChain's `ChatOpenAI`: an answer, a stream, an object, a tool call, and fields that it does not know.

pip install "chatplan[serve]" langchain-openai
python examples/ecosystem/langchain_chat.py                          # starts a server in this process
python examples/ecosystem/langchain_chat.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

from typing import Any, Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr
from serving import model_of, server_url


class Person(BaseModel):
    """A person."""

    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=150)
    job: Literal["teacher", "engineer", "other"]


@tool
def weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"21 {unit} and sunny in {city}"


def main() -> None:
    with server_url() as url:
        about: dict[str, Any] = {"base_url": url, "api_key": SecretStr("none"), "model": model_of(url)}
        chat = ChatOpenAI(**about, temperature=0, max_retries=0)

        print("answer:", chat.invoke("What is the capital of France?").text)
        pieces = [chunk.text for chunk in chat.stream("What is the capital of France?")]
        print("stream:", " | ".join(piece for piece in pieces if piece))

        person = chat.with_structured_output(Person, method="json_schema").invoke("John is a 33 year old engineer.")
        print("object:", repr(person))

        asked = chat.bind_tools([weather], tool_choice="required").invoke("What is the weather in Paris, in celsius?")
        print("tool:", asked.tool_calls[0]["name"], "says", weather.invoke(asked.tool_calls[0]["args"]))

        # Fields that OpenAI does not have go into extra_body.
        chosen = ChatOpenAI(**about, extra_body={"guided_regex": r"\d{3}-\d{4}", "min_p": 0.1, "seed": 7})
        print("constrained:", chosen.invoke("Your number?").text)


if __name__ == "__main__":
    main()
