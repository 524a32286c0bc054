"""A pydantic object out of text: in this process, and by outlines' class for servers.

pip install "chatplan[serve]" openai outlines
python examples/ecosystem/outlines_extract.py                          # starts a server in this process
python examples/ecosystem/outlines_extract.py http://127.0.0.1:8000/v1
"""

from __future__ import annotations

from typing import Literal

import openai
import outlines
from pydantic import BaseModel, Field
from serving import MODEL, model_of, server_url

from chatplan import pipeline

TEXT = "John is a 33 year old engineer from Oslo."


class Person(BaseModel):
    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=150)
    job: Literal["teacher", "engineer", "other"]


def in_process() -> Person:
    """The type is the constraint; nothing is parsed that could fail."""
    chat = pipeline("chat", model=MODEL, temperature=0)
    return Person.model_validate_json(chat([{"role": "user", "content": TEXT}], guided_json=Person).text)


def by_outlines(url: str) -> Person:
    """outlines sends the type's schema as `response_format`, which the server enforces."""
    model = outlines.from_openai(openai.OpenAI(base_url=url, api_key="none"), model_of(url))
    answer = model(TEXT, Person, temperature=0, extra_body={"guided_decoding_backend": "guidance"})
    return Person.model_validate_json(str(answer))


def main() -> None:
    print("in process:", repr(in_process()))
    with server_url() as url:
        print("by outlines:", repr(by_outlines(url)))


if __name__ == "__main__":
    main()
