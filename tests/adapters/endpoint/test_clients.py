"""The clients that users have, against the stand-in for the container and against the emulator."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

PROMPT = "Once upon a"
MESSAGES = [{"role": "user", "content": "Name a fruit."}]
SHORT = {"max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="session")
def emulator_url(repository: Path) -> Iterator[str]:
    """The address of the real emulator, with the example's repository."""
    pytest.importorskip("hf_endpoints_emulator")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "hf_endpoints_emulator.emulator:app", "--port", str(port)]
    environment = {**os.environ, "HANDLER_PATH": str(repository / "handler.py"), "CHATPLAN_DTYPE": "float32",
                   "CHATPLAN_DEVICE": "cpu"}  # fmt: skip
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--log-level", "warning"], env=environment)
    try:
        yield wait_for(f"http://127.0.0.1:{port}", process)
    finally:
        process.terminate()
        process.wait(60)


def wait_for(url: str, process: subprocess.Popen[bytes]) -> str:
    def answers() -> bool:
        assert process.poll() is None, "the emulator has ended"
        try:
            urllib.request.urlopen(f"{url}/health", timeout=60).close()
        except OSError:
            return False
        return True

    wait_until(answers, 110, "the emulator answers")
    return url


EMULATED = pytest.param(
    "emulator_url", marks=pytest.mark.skipif(find_spec("hf_endpoints_emulator") is None, reason="no emulator here")
)


@pytest.fixture(scope="session", params=["endpoint_url", EMULATED])
def url(request: pytest.FixtureRequest) -> Any:
    """Each of the two in turn."""
    return request.getfixturevalue(request.param)


def post(url: str, body: Any, content_type: str = "application/json") -> tuple[int, Any]:
    headers = {"Content-Type": content_type}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_any_http_client(url: str, fruit: str) -> None:
    status, answer = post(url, {"inputs": {"messages": MESSAGES, **SHORT}})
    assert (status, answer["choices"][0]["message"]["content"]) == (200, fruit[:3])
    status, answer = post(url, {"inputs": {"messages": MESSAGES, "top_p": 7}})
    assert status == 400
    assert answer["error"].startswith("top_p: should be less than or equal to 1, got 7")


def test_requests(url: str, fruit: str) -> None:
    requests = pytest.importorskip("requests")
    answer = requests.post(url, json={"inputs": "", "messages": MESSAGES, **SHORT}, timeout=60)
    assert answer.json()["choices"][0]["message"]["content"] == fruit[:3]


def test_query_parameters(endpoint_url: str, fruit: str) -> None:
    status, answer = post(f"{endpoint_url}/?max_tokens=3&temperature=0.0", {"inputs": MESSAGES})
    assert (status, answer["choices"][0]["message"]["content"]) == (200, fruit[:3])


def test_content_type_with_a_charset_is_not_taken(endpoint_url: str) -> None:
    status, _ = post(endpoint_url, {"inputs": MESSAGES}, "application/json; charset=utf-8")
    assert status == 400


ASK = """
import dataclasses, json, sys
from huggingface_hub import InferenceClient

def ask(prompt, **parameters):
    try:
        answer = InferenceClient(sys.argv[1], timeout=60).text_generation(prompt, **parameters)
        return dataclasses.asdict(answer) if dataclasses.is_dataclass(answer) else "".join(answer)
    except Exception as error:
        return {"error": str(error)}

print(json.dumps([ask(**call) for call in json.load(sys.stdin)]))
"""


def inference_client(url: str, *calls: dict[str, Any]) -> list[Any]:
    """What the client makes of each call, in a process of its own: offline, as tests are, it would send nothing."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}
    given = json.dumps([{"prompt": PROMPT, **call} for call in calls])
    command = [sys.executable, "-c", ASK, url]
    done = subprocess.run(
        command, input=given, env=environment, capture_output=True, text=True, check=True, timeout=100
    )
    answers: list[Any] = json.loads(done.stdout)
    return answers


DETAILED = {"max_new_tokens": 3, "details": True, "decoder_input_details": True, "top_n_tokens": 2, "do_sample": True}
EVERYTHING = {
    "best_of": 1,
    "frequency_penalty": 0.1,
    "grammar": {"type": "regex", "value": "[a-z]{2}!"},
    "max_new_tokens": 9,
    "repetition_penalty": 1.1,
    "return_full_text": True,
    "stop": ["!"],
    "temperature": 0.9,
    "top_k": 40,
    "top_p": 0.9,
    "truncate": 2,
    "watermark": False,
    "seed": 4,
}


def test_inference_client(url: str, story: str) -> None:
    calls = ({"max_new_tokens": 3}, {**DETAILED, "seed": 1}, EVERYTHING, {"watermark": True}, {"stream": True})
    text, detailed, constrained, marked, streamed = inference_client(url, *calls)
    assert text == story[:3]
    details = detailed["details"]
    assert (details["finish_reason"], details["seed"]) == ("length", 1)
    assert [token["text"] for token in details["prefill"]] == list(PROMPT)
    assert "".join(token["text"] for token in details["tokens"]) == detailed["generated_text"]
    assert [len(top) for top in details["top_tokens"]] == [2, 2, 2]
    assert constrained.startswith(PROMPT)
    assert constrained.endswith("!")
    assert "watermark: is not supported" in marked["error"]
    assert "stream: " in streamed["error"]


def test_text_generation_client(url: str, story: str) -> None:
    package = pytest.importorskip("text_generation")
    client = package.Client(url, timeout=60)
    assert client.generate(PROMPT, max_new_tokens=3).generated_text == story[:3]
    full = client.generate(
        PROMPT,
        do_sample=True,
        max_new_tokens=3,
        best_of=2,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        return_full_text=True,
        stop_sequences=["!"],
        temperature=0.9,
        top_k=40,
        top_p=0.9,
        truncate=2,
        decoder_input_details=True,
        top_n_tokens=2,
    )
    assert full.generated_text.startswith(PROMPT)
    assert full.details.finish_reason == "length"
    assert [token.text for token in full.details.prefill] == [" ", "a"]
    assert len(full.details.best_of_sequences) == 1
    assert full.details.best_of_sequences[0].tokens
    assert [len(top) for top in full.details.top_tokens] == [2, 2, 2]


def test_text_generation_client_grammar(url: str) -> None:
    package = pytest.importorskip("text_generation")
    types = pytest.importorskip("text_generation.types")
    schema = {"type": "object", "properties": {"n": {"enum": [4]}}, "required": ["n"], "additionalProperties": False}
    grammar = types.Grammar(type=types.GrammarType.Json, value=schema)
    answer = package.Client(url, timeout=60).generate("Json:", grammar=grammar, max_new_tokens=20)
    assert json.loads(answer.generated_text) == {"n": 4}
    assert answer.details.finish_reason.value == "eos_token"


def test_text_generation_client_is_told_what_is_wrong(url: str) -> None:
    package = pytest.importorskip("text_generation")
    errors = pytest.importorskip("text_generation.errors")
    with pytest.raises(errors.BadRequestError, match="^typical_p: is not supported"):
        package.Client(url, timeout=60).generate(PROMPT, typical_p=0.5)
    with pytest.raises(errors.BadRequestError, match="^stream: "):
        list(package.Client(url, timeout=60).generate_stream(PROMPT))


def test_text_generation_async_client(url: str, story: str) -> None:
    import asyncio

    package = pytest.importorskip("text_generation")
    answer = asyncio.run(package.AsyncClient(url, timeout=60).generate(PROMPT, max_new_tokens=1))
    assert answer.generated_text == story[:1]
