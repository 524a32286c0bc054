"""A conversation: ask, keep the answer, ask again.

python examples/first_chat.py
"""

from __future__ import annotations

import os

from chatplan import RequestError, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


def main() -> None:
    # Keywords that are request fields become defaults of every request.
    chat = pipeline("chat", model=MODEL, temperature=0, max_tokens=60)
    messages = [{"role": "system", "content": "You answer in one sentence."}]
    for question in ("What is the capital of France?", "Which river runs through it?"):
        messages.append({"role": "user", "content": question})
        answer = chat(messages)
        messages.append({"role": "assistant", "content": answer.text})
        print(f"user: {question}\nassistant: {answer.text}")
    print(f"tokens of the last turn: {answer.usage.prompt_tokens} read, {answer.usage.completion_tokens} written")

    # A field that nobody answers for, here a misspelt one, is an error that names it.
    try:
        chat(messages[:2], max_token=5)
    except RequestError as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    main()
