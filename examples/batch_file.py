"""A file of requests becomes a file of answers, even if the program is killed in between.

python examples/batch_file.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MODEL = os.environ.get("CHATPLAN_MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")


def write(path: Path) -> None:
    """Twelve requests in OpenAI's batch format, one of which cannot be honoured."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(12):
            question = f"What is {number} plus {number}?"
            body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "max_tokens": 6}
            if number == 5:
                body["max_token"] = 6
            entry = {"custom_id": f"sum-{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
            file.write(json.dumps(entry) + "\n")


def kill_in_between(command: list[str], work: Path) -> None:
    program = subprocess.Popen(command)
    while program.poll() is None and not list(work.glob("*.jsonl")):
        time.sleep(0.01)
    program.kill()
    program.wait()
    print(f"killed with {len(list(work.glob('*.jsonl')))} of 3 batches done")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder, "in.jsonl"), Path(folder, "out.jsonl")
        write(source)
        command = [sys.executable, "-m", "chatplan.batch", str(source), str(output), "--model", MODEL]
        command += ["--batch-size", "4", "--default", "temperature=0"]
        kill_in_between(command, Path(folder, "out.jsonl.work"))
        subprocess.run(command, check=True)
        answers = [json.loads(line) for line in output.read_text("utf-8").splitlines()]
    for answer in answers:
        body = answer["response"]["body"]
        said = body["choices"][0]["message"]["content"] if "choices" in body else body["error"]["message"]
        print(answer["custom_id"], answer["response"]["status_code"], repr(said))
    ordered = [answer["custom_id"] for answer in answers] == [f"sum-{number}" for number in range(12)]
    print(f"one answer for each request, in order: {ordered}")


if __name__ == "__main__":
    main()
