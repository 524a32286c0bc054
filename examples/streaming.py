"""An answer as it is generated, and what happens when its reader leaves.

python examples/streaming.py
"""

from __future__ import annotations

import os

from chatplan import fold, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
STORY = [{"role": "user", "content": "Tell me a short story about a fox."}]


def main() -> None:
    chat = pipeline("chat", model=MODEL, temperature=0)

    # The stop string never reaches the reader: text that could begin one is held back until it is decided.
    chunks = []
    with chat(STORY, stream=True, max_tokens=50, stop=["."], stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            chunks.append(chunk)
            for choice in chunk.choices:
                print(choice.delta.content or "", end="", flush=True)
    whole = fold(chunks)
    print(f"\nstop_reason: {whole.choices[0].stop_reason!r}")

    # A whole answer is the fold of its stream, so both are the same text.
    same = whole.text == chat(STORY, max_tokens=50, stop=["."]).text
    print(f"{len(chunks)} chunks fold to the answer without streaming: {same}")

    # Leaving the block stops the model within one token; nothing goes on in the background.
    with chat(STORY, stream=True) as stream:
        for chunk in stream:
            if chunk.choices[0].delta.content:
                print(f"left after the first piece of text: {chunk.choices[0].delta.content!r}")
                break


if __name__ == "__main__":
    main()
