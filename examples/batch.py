"""Requests with different settings, answered together.

python examples/batch.py
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

from chatplan import pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


def ask(question: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}], **fields}


def supply() -> Iterator[dict[str, Any]]:
    """Requests may come from a generator; a batch is taken at a time."""
    for number in range(1, 7):
        yield ask(f"What is {number} plus {number}?", temperature=0, max_tokens=8)


def main() -> None:
    chat = pipeline("chat", model=MODEL, batch_size=4)
    requests = [
        ask("Name a fruit.", temperature=0, max_tokens=8),
        ask("Name a planet.", seed=3, top_p=0.8, max_tokens=12, stop=["\n"]),
        ask("Name a colour.", seed=3, presence_penalty=1.5, n=2, max_tokens=8),
    ]
    start = time.perf_counter()
    together = chat(requests)
    took_together = time.perf_counter() - start
    for answer in together:
        for choice in answer.choices:
            print(f"choice {choice.index}: {choice.message.content!r}")

    start = time.perf_counter()
    alone = [chat(request) for request in requests]
    took_alone = time.perf_counter() - start
    same = [one.choices for one in together] == [one.choices for one in alone]
    print(f"each answer is what it is alone: {same}")
    print(f"together {took_together:.1f} s, one after the other {took_alone:.1f} s")

    for answer in chat(supply()):
        print(answer.text)


if __name__ == "__main__":
    main()
