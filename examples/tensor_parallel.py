"""Each layer divided over several devices: this process is rank 0, and starts the others itself. Here they share a CPU.

python examples/tensor_parallel.py
"""

from __future__ import annotations

import os

from chatplan import ChatPipeline, RequestError, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
RANKS = 2
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


def main() -> None:
    chat: ChatPipeline = pipeline("chat", model=MODEL, tensor_parallel_size=RANKS)
    print("engine:", chat.chat.engine.name)

    print(chat(QUESTION, temperature=0, max_tokens=12).text)
    print(chat(QUESTION, temperature=0, guided_choice=["London", "Paris"]).text)

    with chat(QUESTION, stream=True, temperature=0, max_tokens=500) as stream:
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                print("began with:", chunk.choices[0].delta.content)
                break  # the other ranks hear no more of this request

    try:
        chat(QUESTION, temperature=-1)
    except RequestError as error:
        print("refused:", error.param)
    chat.chat.close()


if __name__ == "__main__":
    main()
