"""A chat whose answers come from servers elsewhere: one that is away, and one that this program starts.

pip install "chatplan[serve,remote]"
python examples/remote.py            # starts a server in this process
python examples/remote.py URL …      # asks yours: vLLM, SGLang, llama.cpp, TGI, or any other of the protocol
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from chatplan import Chat, RequestError, connect, pipeline

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


@contextmanager
def server() -> Iterator[str]:
    """The address of a server in this process."""
    from chatplan.adapters.server import Server, ServerSettings, create_app

    chat = pipeline("chat", model=MODEL, served_model_name="smollm2").chat
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    running = Server(create_app(chat, ServerSettings(log_level="error")))
    thread = threading.Thread(target=running.run, args=([listener],))
    thread.start()
    while not running.started:
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


def talk(chat: Chat) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    print(chat(question, temperature=0, max_tokens=20).text)

    with chat(question, stream=True, temperature=0, max_tokens=20) as stream:
        print("".join(chunk.choices[0].delta.content or "" for chunk in stream))

    # What is sent, under which name; nothing is generated for this.
    try:
        for effect in chat.explain(question, temperature=0, guided_choice=["Paris", "Rome"]).fields:
            print(f"{effect.field}: {', '.join(effect.became)}")
        print(chat(question, temperature=0, guided_choice=["Paris", "Rome"]).text)
    except RequestError as error:  # not every server can be told so
        print(f"refused before it is sent: {error.param}")


def main() -> None:
    if len(sys.argv) > 1:
        talk(connect(sys.argv[1:]))
        return
    with server() as url:
        chat = connect(["http://127.0.0.1:9", url])  # nobody listens on port 9
        print(f"asking {chat.model.name}")
        talk(chat)
        chat.close()


if __name__ == "__main__":
    main()
