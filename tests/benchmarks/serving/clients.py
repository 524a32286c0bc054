"""Other people's clients against a server, unchanged: one line for each thing they ask.

    python tests/benchmarks/serving/clients.py --url http://127.0.0.1:8000

``--quick`` starts a server with a tiny model.
It drives those that are installed: the openai clients of Python and Node, litellm, llm and lm-eval. ``CHATPLAN_PEERS``
names the folder of their environments (see README.md). The exit code is 1 when one of them failed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
from checks import CITY
from servers import PEERS, quick, stand_in

HERE = Path(__file__).parent
Line = tuple[str, str, str]
QUESTION = "What is the capital of France?"
TASK = """\
task: chatplan_capitals
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/capitals.json
output_type: generate_until
test_split: test
doc_to_text: "What is the capital of {{{{country}}}}?"
doc_to_target: "{{{{city}}}}"
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 16
  temperature: 0
metric_list:
  - metric: exact_match
"""


def command(
    words: list[str], more: Mapping[str, str] | None = None, text: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run it to its end, without a proxy for the server."""
    environment = os.environ | {"NO_PROXY": "127.0.0.1,localhost"} | dict(more or {})
    given: Any = {"env": environment, "input": text, "capture_output": True, "encoding": "utf-8", "timeout": 600}
    return quick.run(words[1:], **given) if words[0] == sys.executable else subprocess.run(words, **given)


def lines(result: subprocess.CompletedProcess[str]) -> list[Line]:
    """What a program wrote that reports by itself."""
    found = [line.split("\t") for line in result.stdout.splitlines() if line.count("\t") == 2]
    return [(name, verdict, seen) for name, verdict, seen in found] or [("start", "FAILED", result.stderr[-300:])]


def openai_python(url: str, model: str, key: str) -> Iterator[Line]:
    yield from lines(command([sys.executable, str(HERE / "client_openai.py"), url, model, key]))


def openai_node(url: str, model: str, key: str) -> Iterator[Line]:
    path = {"NODE_PATH": str(PEERS / "node" / "node_modules")}
    yield from lines(command(["node", str(HERE / "client_openai.mjs"), url, model, key], path))


def litellm(url: str, model: str, key: str) -> Iterator[Line]:
    program = [str(PEERS / "litellm" / "bin" / "python"), str(HERE / "client_litellm.py"), url, model, key]
    yield from lines(command(program, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}))


def llm(url: str, model: str, key: str) -> Iterator[Line]:
    """By its command line. It cannot ask for a certain tool, so only that tools go through is looked at."""
    with tempfile.TemporaryDirectory() as folder:
        about = {"model_id": "served", "model_name": model, "api_base": f"{url}/v1", "can_stream": True}
        entry = about | {"supports_tools": True, "supports_schema": True}
        Path(folder, "extra-openai-models.yaml").write_text(json.dumps([entry]), "utf-8")  # JSON is YAML
        environment = {"LLM_USER_PATH": folder, "OPENAI_API_KEY": key}
        words = [str(PEERS / "llm" / "bin" / "llm"), "prompt", QUESTION, "--model", "served", "-o", "max_tokens", "120"]
        greedy = ["-o", "temperature", "0"]
        tool = ["--functions", "def weather(city: str) -> str:\n    'The weather.'\n    return 'sunny'"]
        asked = {
            "chat": [*greedy, "--no-stream"],
            "stream": greedy,
            "tool": [*greedy, *tool, "--no-stream"],
            "json_schema": [*greedy, "--no-stream", "--schema", json.dumps(CITY)],
            "error": ["-o", "temperature", "1", "-o", "max_tokens", "0", "--no-stream"],
        }
        for name, more in asked.items():
            yield judged(name, command([*words, *more], environment))


def judged(name: str, result: subprocess.CompletedProcess[str]) -> Line:
    """Whether a run of llm ended as it should: with an answer, or for ``error`` with the server's message."""
    seen = result.stdout if result.returncode == 0 else result.stderr
    right = (result.returncode != 0) == (name == "error") and bool(seen.strip())
    if right and name == "json_schema":
        right = json.loads(seen)["city"] in CITY["properties"]["city"]["enum"]
    if right and name == "error":
        right = "Error code: 400" in seen
    return name, "ok" if right else "FAILED", seen


def lm_eval(url: str, model: str, key: str) -> Iterator[Line]:
    """Its chat model, on a task of three questions; a wrong answer is the model's affair."""
    with tempfile.TemporaryDirectory() as folder:
        cities = {"France": "Paris", "Norway": "Oslo", "Japan": "Tokyo"}
        rows = [{"country": country, "city": city} for country, city in cities.items()]
        Path(folder, "capitals.json").write_text(json.dumps(rows), "utf-8")
        Path(folder, "capitals.yaml").write_text(TASK.format(folder=folder), "utf-8")
        where = (
            f"model={model},base_url={url}/v1/chat/completions,num_concurrent=2,max_retries=1,tokenizer_backend=None"
        )
        words = [str(PEERS / "lm-eval" / "bin" / "lm_eval"), "run", "--model", "local-chat-completions"]
        words += ["--model_args", where, "--include_path", folder, "--tasks", "chatplan_capitals"]
        words += ["--apply_chat_template", "--log_samples", "--output_path", f"{folder}/results"]
        environment = {"OPENAI_API_KEY": key, "HF_HOME": folder, "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
        result = command(words, environment)
        samples = [json.loads(line) for file in Path(folder).rglob("samples_*.jsonl") for line in file.open()]
        answers = [sample["resps"][0][0] for sample in samples]
        right = len(answers) == len(rows) and all(answers)
        yield "chat", "ok" if right else "FAILED", " | ".join(answers) or result.stderr[-300:]


CLIENTS: dict[str, tuple[Callable[[str, str, str], Iterator[Line]], Path]] = {
    "openai (Python)": (openai_python, Path(sys.executable)),
    "openai (Node)": (openai_node, PEERS / "node" / "node_modules" / "openai"),
    "litellm": (litellm, PEERS / "litellm" / "bin" / "python"),
    "llm": (llm, PEERS / "llm" / "bin" / "llm"),
    "lm-eval": (lm_eval, PEERS / "lm-eval" / "bin" / "lm_eval"),
}


def main() -> None:
    parser = quick.arguments(__doc__)
    parser.add_argument("--url", help="of the server, without /v1")
    parser.add_argument("--model", default="", help="the name that requests ask for; default the first of /v1/models")
    parser.add_argument("--key", default="none", help="the API key")
    options = parser.parse_args()
    if options.url is None and not options.quick:
        parser.error("--url: no server is named")
    with stand_in() if options.url is None else nullcontext(options.url) as url:
        sys.exit(not all_work(url, options.model, options.key))


def all_work(url: str, model: str, key: str) -> bool:
    """Prints what each client says. Whether none of them failed."""
    header = {"Authorization": f"Bearer {key}"}
    model = model or httpx.get(f"{url}/v1/models", headers=header, timeout=60).json()["data"][0]["id"]
    good = True
    for name, (drive, needs) in CLIENTS.items():
        if not needs.exists():
            print(f"{name:18}not installed: {needs}")
            continue
        for check, verdict, seen in drive(url, model, key):
            good &= verdict == "ok"
            print(f"{name:18}{check:14}{verdict:8}{' '.join(seen.split())[:150]}", flush=True)
    return good


if __name__ == "__main__":
    main()
