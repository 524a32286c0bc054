"""The server that these examples ask: the one whose address is given, or one that is started in this process."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from chatplan import pipeline
from chatplan.adapters.server import Server, ServerSettings, create_app

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


@contextmanager
def server_url() -> Iterator[str]:
    """The address of an API like OpenAI's, with ``/v1``."""
    if len(sys.argv) > 1:
        yield sys.argv[1].rstrip("/")
        return
    chat = pipeline("chat", model=MODEL, served_model_name="smollm2").chat
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = Server(create_app(chat, ServerSettings(log_level="error")))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()


def model_of(url: str) -> str:
    """The name of the model that is served there."""
    return str(httpx.get(f"{url}/models").raise_for_status().json()["data"][0]["id"])
