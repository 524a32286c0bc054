"""An object out of text: the answer is JSON of a pydantic model's schema, and the model reads it.

python examples/extract.py
"""

from __future__ import annotations

import os
from typing import Literal

from pydantic import BaseModel, Field

from chatplan import RequestError, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
TEXT = "John is a 33 year old engineer from Oslo."


class Person(BaseModel):
    name: str = Field(max_length=30)
    age: int = Field(ge=0, le=150)
    job: Literal["teacher", "engineer", "other"]


def main() -> None:
    chat = pipeline("chat", model=MODEL, temperature=0)
    messages = [
        {"role": "system", "content": "Write down the person's name, age and job as JSON."},
        {"role": "user", "content": TEXT},
    ]

    # A type stands for its schema. What comes back always has its form; whether it is true is the model's part.
    answer = chat(messages, guided_json=Person)
    print("without line breaks:", answer.text)
    person = Person.model_validate_json(answer.text)
    print(f"{person.name} is {person.age} and works as: {person.job}")

    # An answer that is cut off is not whole, and says so.
    cut = chat(messages, guided_json=Person, max_tokens=5)
    print(f"five tokens: {cut.text!r}, {cut.choices[0].finish_reason}")

    # What cannot be enforced is refused, with its place in the schema, before anything is generated.
    schema = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
    try:
        chat(messages, guided_json=schema, guided_decoding_backend="guidance")
    except RequestError as error:
        print("refused:", error)


if __name__ == "__main__":
    main()
