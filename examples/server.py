"""A server in this process, and the client of OpenAI that calls it: an answer, a stream, and a refusal.

pip install "chatplan[serve]" openai
python examples/server.py
"""

from __future__ import annotations

import os
import socket
import threading
import time

import openai

from chatplan import Chat, pipeline
from chatplan.adapters.server import Server, ServerSettings, create_app

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


def load() -> Chat:
    """Called in a thread when the app starts; until it returns, /health is 503."""
    return pipeline("chat", model=MODEL, served_model_name="smollm2", temperature=0).chat


def start() -> tuple[Server, threading.Thread, str]:
    """A server on a free port of this machine; nobody is asked for a credential there."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(create_app(load, ServerSettings(log_level="error")))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    return server, thread, f"http://127.0.0.1:{listener.getsockname()[1]}"


def wait_until_loaded(client: openai.OpenAI) -> None:
    while True:
        try:
            print("serving", [model.id for model in client.models.list()])
            return
        except openai.InternalServerError:  # 503: not yet
            time.sleep(0.1)


def main() -> None:
    server, thread, url = start()
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    wait_until_loaded(client)

    answer = client.chat.completions.create(
        model="smollm2",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        extra_body={"guided_choice": ["Paris", "London"]},
    )
    print(answer.id, answer.choices[0].message.content)

    stream = client.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "Name a fruit."}], max_tokens=8, stream=True
    )
    print("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    try:
        client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Hi"}], extra_body={"tempurature": 1}
        )
    except openai.BadRequestError as error:
        print(f"refused: {error.param} ({error.code})")

    server.should_exit = True
    thread.join()


if __name__ == "__main__":
    main()
