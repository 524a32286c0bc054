"""Every example runs and says what it should, and the Python blocks of the plugin tutorial run in order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
EXPECTED = {
    "async_chat.py": "cancelled the essay",
    "batch.py": "each answer is what it is alone: True",
    "batch_file.py": "one answer for each request, in order: True",
    "beam_search.py": "refused: top_p",
    "classify.py": "negative  0.70  It broke after two days.",
    "custom_plugin.py": "lipogram made it processor AvoidLetters(letters='e')",
    "demo.py": "Seed 7 gave exactly this answer twice",
    "explain.py": "without the plugin `filters`: top_k",
    "extract.py": "John is 33 and works as: engineer",
    "first_chat.py": "refused: max_token",
    "multi_device.py": "The capital of France is Paris.",
    "remote.py": "guided_choice: sent as guided_choice=['Paris', 'Rome']",
    "server.py": "refused: tempurature (unsupported_field)",
    "sql_grammar.py": "WHERE author = 'Jane Austen'",
    "streaming.py": "fold to the answer without streaming: True",
    "tensor_parallel.py": "engine: tensor_parallel\nThe capital of France is Paris.",
    "weather_tools.py": "weather(city='Bern', unit='celsius') -> {'sky': 'sunny', 'degrees': 21}",
}
NEWEST = {"remote.py", "server.py", "tensor_parallel.py", "weather_tools.py"}  # need newer transformers
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(checkpoint: str, *arguments: str | Path) -> str:
    environment = os.environ | {"CHATPLAN_MODEL": checkpoint, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.dev_only if name in NEWEST else ()) for name in sorted(EXPECTED)]
)
def test_example_runs(model_path: str, name: str) -> None:
    assert EXPECTED[name] in run(model_path, Path("examples", name))


@pytest.mark.model
def test_checkpoint_example_finds_the_checkpoint(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path(model_path).name != "smollm2-135m-instruct":
        pytest.skip("CHATPLAN_MODEL is another checkpoint than the one this example makes")
    monkeypatch.setenv("CHATPLAN_CACHE", str(Path(model_path).parent))
    assert run(model_path, "examples/smollm2.py").strip() == str(Path(model_path).absolute())


def test_every_example_has_an_expectation() -> None:
    assert set(EXAMPLES) == {*EXPECTED, "smollm2.py"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_is_listed_in_the_documentation(name: str) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert any(f"examples/{name}" in page.read_text("utf-8") for page in pages)


@pytest.mark.model
@pytest.mark.slow
def test_plugin_tutorial_runs_in_order(model_path: str, tmp_path: Path) -> None:
    """In one namespace, with the checkpoint in place of its name on the hub."""
    text = (ROOT / "docs" / "plugins.md").read_text("utf-8")
    program = "\n".join(BLOCK.findall(text))
    script = tmp_path / "blocks.py"
    script.write_text(program.replace(HUB_NAME, model_path), "utf-8")
    assert run(model_path, script).strip()
