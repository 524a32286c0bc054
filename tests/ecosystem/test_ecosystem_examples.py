"""Other people's clients and tools, unchanged: every example runs and says what it should."""

from __future__ import annotations

import os
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import forked
import pytest
import torch

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "ecosystem"
EXAMPLES = sorted(path.name for path in FOLDER.glob("*.py") if path.name != "serving.py")
PERSON = "Person(name='John', age=33, job='engineer')"
EXPECTED = {
    "langchain_chat.py": [
        "answer: The capital of France is Paris.",
        r"stream: The \|  capital \|",
        f"object: {re.escape(PERSON)}",
        r"tool: weather says 21 [CF] and sunny in Paris",
        r"constrained: \d{3}-\d{4}",
    ],
    "litellm_completion.py": [
        "answer: The capital of France is Paris.",
        r"stream: .*The \|  capital \|",
        "constrained: (Paris|London)",
        "refused: .*did you mean temperature",
    ],
    "llm_in_process.py": [
        "answer: The capital of France is Paris.",
        r"stream: .* \|",
        'object: .*"city" ?: ?"Paris"',
        r"constrained: \d{3}-\d{4}",
    ],
    "lm_eval_in_process.py": [r"1\.0 of .*Oslo", r"1\.0 of .*Tokyo"],
    "outlines_extract.py": [f"in process: {re.escape(PERSON)}", f"by outlines: {re.escape(PERSON)}"],
    "smolagents_agent.py": ["answer: (Paris|London)", r"step: weather \{'city': '(\w+)'\} -> It is sunny in \1"],
}
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.dev_only, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def url(model_path: str) -> Iterator[str]:
    """The server that the examples start, once for all of them; one thread, as theirs, so that none waits spinning."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATPLAN_MODEL", model_path)
        patch.setattr(sys, "argv", ["serving.py"])
        with runpy.run_path(str(FOLDER / "serving.py"))["server_url"]() as address:
            yield str(address)
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_example_runs(model_path: str, url: str, name: str) -> None:
    environment = os.environ | {"CHATPLAN_MODEL": model_path, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [str(FOLDER / name), *([] if "in_process" in name else [url])]
    result = forked.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=500)
    assert result.returncode == 0, result.stdout + result.stderr
    for pattern in EXPECTED[name]:
        assert re.search(f"^{pattern}", result.stdout, re.MULTILINE), f"no {pattern!r} in\n{result.stdout}"


def test_every_example_has_an_expectation_and_a_place_in_the_documentation() -> None:
    page = (ROOT / "docs" / "ecosystem.md").read_text("utf-8")
    assert set(EXAMPLES) == set(EXPECTED)
    assert [name for name in EXAMPLES if f"examples/ecosystem/{name}" not in page] == []
