"""The example repository around a tiny checkpoint, and a strict stand-in for the container's toolkit."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import torch
from transformers import LlamaForCausalLM
from waiting import join

from chatplan import Chat, ModelInfo
from chatplan.standin import stand_in

EXAMPLES = Path(__file__).parents[3] / "examples"
# The toolkit's own serialiser, where it is installed.
DUMPS = import_module("orjson").dumps if find_spec("orjson") else lambda answer: json.dumps(answer).encode()


class Toolkit:
    """The rules of the default container: what it takes, what a handler gets, and what it can send back."""

    def __init__(self, handler: Callable[[Any], Any]) -> None:
        self.handler, self.one_at_a_time = handler, threading.Semaphore(1)

    def post(self, body: bytes, query: str = "", content_type: str | None = "application/json") -> tuple[int, bytes]:
        """The status and the body of the answer."""
        try:
            if content_type != "application/json":  # no parameter is cut off
                raise ValueError(f"Content type {content_type} not supported")
            given = json.loads(body)
            if "inputs" not in given and "instances" not in given:
                raise ValueError("Body needs to provide a inputs key")
            if query and "parameters" not in given:
                given["parameters"] = {name: coerced(value) for name, value in parse_qsl(query)}
            with self.one_at_a_time:
                answer = self.handler(given)
            check_serialisable(answer)
            return 200, DUMPS(answer)
        except Exception as error:  # only its text survives
            return 400, json.dumps({"error": str(error)}).encode()

    def ask(self, body: Any, query: str = "") -> Any:
        """The answer to a body that is fine; the handler leaves what it was given as it is."""
        status, answer = self.post(json.dumps(body).encode(), query)
        assert status == 200, answer
        return json.loads(answer)

    def refusal(self, body: Any) -> str:
        """The error of a body that is refused: one line, ``param: reason``."""
        status, answer = self.post(json.dumps(body).encode())
        error: str = json.loads(answer)["error"]
        assert status == 400
        assert error.count("\n") == 0
        _, colon, reason = error.partition(": ")
        assert colon, error
        assert reason, error
        return error


def coerced(value: str) -> Any:
    """A query parameter as the first toolkits hand it over: fractions stay text."""
    return int(value) if value.isnumeric() else {"true": True, "false": False}.get(value, value)


def check_serialisable(value: Any) -> None:
    """As orjson is: plain types, keys that are strings, no NaN, whole numbers of 64 bits."""
    if isinstance(value, dict):
        assert all(type(key) is str for key in value), f"a key of {value} is no str"
        for item in value.values():
            check_serialisable(item)
    elif isinstance(value, list):
        for item in value:
            check_serialisable(item)
    else:
        assert value is None or type(value) in (str, bool, int, float), f"{type(value)} cannot be serialised"
        assert not isinstance(value, float) or value - value == 0.0, f"{value} would become null"
        assert not isinstance(value, int) or -(2**63) <= value < 2**64


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, readable_model: LlamaForCausalLM) -> Path:
    """A model's repository: the checkpoint, and the files of the example."""
    place = tmp_path_factory.mktemp("repository")
    readable_model.save_pretrained(place)
    stand_in().tokenizer.save_pretrained(place)
    for file in (EXAMPLES / "endpoint").iterdir():
        shutil.copy(file, place / file.name)
    return place


@pytest.fixture(scope="session")
def direct(readable_model: LlamaForCausalLM) -> Chat:
    """The same model without a handler."""
    return Chat(ModelInfo.of(readable_model, stand_in().tokenizer, name="tiny"))


@pytest.fixture(scope="session")
def fruit(direct: Chat) -> str:
    """The first characters of the likeliest answer to MESSAGES, each a token."""
    return str(direct([{"role": "user", "content": "Name a fruit."}], max_tokens=8, temperature=0).text)


@pytest.fixture(scope="session")
def story(readable_model: LlamaForCausalLM) -> str:
    """How the model goes on after PROMPT, each character a token."""
    tokenizer = stand_in().tokenizer
    ids = tokenizer("Once upon a", return_tensors="pt")["input_ids"]
    model: Any = readable_model
    found = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    return str(tokenizer.decode(found[0, ids.shape[1] :]))


@pytest.fixture(scope="session")
def handler(repository: Path) -> Any:
    """The handler, loaded from its file as the toolkit does it."""
    spec = spec_from_file_location("handler.EndpointHandler", repository / "handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EndpointHandler(str(repository), served_model_name="tiny", dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def toolkit(handler: Any) -> Toolkit:
    """The stand-in, with the tiny model behind it."""
    return Toolkit(handler)


@pytest.fixture(scope="session")
def endpoint_url(toolkit: Toolkit) -> Iterator[str]:
    """The address of the stand-in, for clients that speak HTTP."""

    class Door(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            url = urlsplit(self.path)
            status, answer = toolkit.post(body, url.query, self.headers.get("Content-Type"))
            if url.path not in ("/", "/predict"):
                status, answer = 404, b"Not Found"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    join(thread)
    server.server_close()
