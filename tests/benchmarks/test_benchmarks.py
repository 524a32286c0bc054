"""The benchmarks work: each runs with ``--quick``, and prints what it says it prints. How fast is not looked at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from shutil import which
from typing import Any

import forked
import pytest

pytestmark = [pytest.mark.dev_only, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
SECONDS = 280.0  # for a machine that does much else
N = r" +-?[\d.,]+"
MET = r"( +(within|BELOW|OVER|ABOVE) .+)?"
SERVER_COUNTS = r"( +[\d.]+){8} +12 +0"  # the last two: twelve tokens, no errors


@dataclass(frozen=True)
class Output:
    """Lines that a program prints, each a pattern that a whole line must match, and its modules that may be missing."""

    lines: tuple[str, ...]
    needs: tuple[str, ...] = ()


PROGRAMS = {
    "compile_plan.py": Output((
        " +µs +ratio to the peer", rf"GenerationConfig \(peer\){N} +1.00", f"plain request{N}{N}{MET}",
        f"request with 21 fields{N}{N}{MET}",
    )),
    "throughput.py": Output((
        " +tokens/s +ratio to the peer", rf"generate \(peer\){N} +1.000", f"pipeline, whole{N}{N}{MET}",
        f"pipeline, streamed{N}{N}",
    )),
    "sampler.py": Output((
        " +ms +share of a step", f"decode step{N} +100.0%", f"greedy{N}{N}%", f"logprobs{N}{N}%",
        f"all together{N}{N}%{MET}", rf"generate's own \(peer\){N}{N}%",
    )),
    "guided_steps.py": Output((
        "ms a token or step +ours +peer +ratio", f"one answer / llguidance bare{N}{N}{N}{MET}",
        f"the mask alone / llguidance bare{N}{N}{N}", f"8 rows, 8 schemas / 8 unconstrained{N}{N}{N}{MET}",
    )),
    "guided_compile.py": Output((
        "2 schemas of at most 100 kB; time-out 5 s", " +compiled +refused +late +left +p50 ms +p99 ms +max ms",
        *(f"{name} +2 +0 +0 +0{N}{N}{N}" for name in ("auto", "guidance", "xgrammar")),
    ), ("xgrammar",)),
    "json_schema_suite.py": Output((
        "2 schemas, 4 instances", " +auto +llguidance", "schemas all right +1 +1", "schemas refused +1 +1",
        "valid ok +2 +2", "wrong rejects +0 +0", "invalid ok +1 +1", "wrong accepts +0 +0", "no verdict +1 +1",
        f"ms{N}{N}",
    )),
    "remote_overhead.py": Output((
        "request +bare ms +remote ms +more ms +ratio",
        *(f"{name}{N}{N}{N}{N}" for name in ("whole", "stream of 32", "whole, async", "stream of 32, async")),
        "at most 3.0 ms more: (True|False)",
    ), ("openai", "uvicorn")),
    "remote_vllm.py": Output((
        r"\S+, 8192 tokens", "max_tokens +honoured", "guided_regex +honoured", "echo +honoured", "model +NO EFFECT: .+",
        "best_of +refused by the server, best_of: .+",
        "without effect or broken: model; a stream that is left stops: .+",
    ), ("openai", "fastapi")),
    "routing_simulation.py": Output((
        "workload +replicas +routing +cached +peak load",
        *(f"{workload} +10  {routing}{N}%{N}x"
          for workload in ("one short system prompt", "1,000 long system prompts")
          for routing in ("random", "less loaded of two", "prefix of 256", "prefix of 2,048", "prefix of 16,384")),
    )),
    "endpoint_overhead.py": Output(tuple(
        rf"{name}:{N} of model.generate \({N.replace(' +', '')} to{N}; in processor time{N}; bare{N} ms\)"
        for name in ("conversation", "prompt")
    )),
    "serving/load.py": Output((r'\{"requests": 3, "errors": 0, .+\}',), ("fastapi",)),
    "serving/clients.py": Output(("openai \\(Python\\) +chat +ok +.+",), ("fastapi", "openai")),
    "serving/soak.py": Output((
        r"chatplan, float32, 1 threads, log in .+", r"\d+ requests in \d+ s: \{.+\}",
        "memory after the warm-up .+ MB, at the end .+ MB, highest .+ MB",
        "10 clients left; afterwards not zero: nothing", "nothing was wrong",
    ), ("fastapi", "prometheus_client")),
    "serving/compare.py": Output((
        "server +dtype +prompts +conc. .+",
        *(f"{name} +bfloat16 +unique +{clients}{SERVER_COUNTS}"
          for name in ("chatplan", "chatplan-generate") for clients in (1, 2)),
        "chatplan ÷ peer", *(f"chatplan-generate +bfloat16 +unique +{clients}{N}{N}{N} *" for clients in (1, 2)),
        "one at a time +dtype +prompts .+", rf"chatplan +bfloat16 +unique{N}{N}{N}{N} (met|MISSED) \(at least 0.8\) *",
    ), ("fastapi",)),
    "gpu/engines.py": Output(()),
    "gpu/run.sh": Output((
        "== tests", r"\d+ passed, \d+ skipped.*", "== tokens",
        "generate: the same tokens as model.generate", "continuous: the same tokens as model.generate",
        r"0\.\d+ billion weights, cpu, tokens/s",
        " +clients +generate +continuous +generate_batch +continuous ÷ generate_batch",
        *(f" +{clients}{N}{N}{N}{N}" for clients in (1, 3)),
    )),
}  # fmt: skip
SLOW = {"guided_compile.py", "remote_vllm.py", "serving/soak.py", "serving/compare.py", "gpu/run.sh"}
ELSEWHERE = {"serving/load.py", "serving/clients.py", "gpu/engines.py"}  # by tests below, the last one by run.sh
LINUX = {name for name in PROGRAMS if name.startswith("serving/")} | {"remote_vllm.py", "gpu/run.sh"}

CLIENTS = ("openai (Python)", "openai (Node)", "litellm", "llm", "lm-eval")


def checked(name: str, done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines that a program printed, all that it should among them."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    missing = [each for each in PROGRAMS[name].lines if not any(re.fullmatch(each, line) for line in lines)]
    assert not missing, done.stdout
    return lines


def run(name: str, tmp_path: Path) -> list[str]:
    for module in PROGRAMS[name].needs:
        pytest.importorskip(module)
    if name in LINUX and not (sys.platform == "linux" and which("taskset")):
        pytest.skip("needs Linux: /proc and taskset")
    # It needs neither the checkpoint nor other people's environments, and no network.
    env = {key: value for key, value in os.environ.items() if key not in ("CHATPLAN_MODEL", "CHATPLAN_PEERS")}
    env |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path), "PYTHONPATH": ""}
    given: dict[str, Any] = {"env": env, "capture_output": True, "text": True, "timeout": SECONDS}
    if name.endswith(".sh"):
        with_forks = {**given, "env": env | {"PYTHON": interpreter(tmp_path)}}
        return checked(name, subprocess.run([str(HERE / name), "--quick"], **with_forks))
    return checked(name, forked.run([HERE / name, "--quick"], **given))


def interpreter(folder: Path) -> str:
    """A program that does what Python does, in forks of a process that imported all before."""
    program = folder / "python"
    support = Path(forked.__file__).parent
    # The first program of a session starts what forks; its place is what the others are told.
    where = forked.run(["-c", f"import os; print(os.environ[{forked.SOCKET!r}])"], capture_output=True, text=True)
    program.write_text(
        f"#!{sys.executable} -S\nimport os, sys\nsys.path.insert(0, {str(support)!r})\n"
        f"os.environ[{forked.SOCKET!r}] = {where.stdout.strip()!r}\nimport forked\n"
        "sys.exit(forked.run(sys.argv[1:]).returncode)\n"
    )
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
                                  for name in PROGRAMS if name not in ELSEWHERE])  # fmt: skip
def test_it_runs_and_prints_its_figures(name: str, tmp_path: Path) -> None:
    run(name, tmp_path)


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What the program says that drives other people's clients."""
    return run("serving/clients.py", tmp_path_factory.mktemp("clients"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_that_is_installed_gets_what_it_asks(name: str, clients: list[str]) -> None:
    lines = [line.removeprefix(name).split() for line in clients if line.startswith(name)]
    assert lines
    if lines[0][:2] == ["not", "installed:"]:
        pytest.skip(f"{name} is not installed: {lines[0][2]}")
    assert {words[1] for words in lines} == {"ok"}


@pytest.mark.slow
def test_the_figures_of_load_are_all_there(tmp_path: Path) -> None:
    """What `compare.py` reads."""
    figures = json.loads(run("serving/load.py", tmp_path)[-1])
    assert (figures["requests"], figures["errors"], figures["output_tokens"]) == (3, 0, 12)
    assert {*figures} >= {"tokens_per_s", "ttft_ms", "between_ms", "step_ms", "first_errors", "seconds"}
    assert all({*figures[name]} == {"p50", "p99"} for name in ("ttft_ms", "between_ms", "step_ms"))


def test_no_program_is_left_out() -> None:
    files = [path for kind in ("py", "mjs", "sh") for path in HERE.rglob(f"*.{kind}") if path != Path(__file__)]
    texts = {str(path.relative_to(HERE)): path.read_text("utf-8") for path in files}
    programs = {name for name, text in texts.items() if "__main__" in text or name.endswith(".sh")}
    assert programs == {*PROGRAMS}
    for name in {*texts} - programs:  # a part of programs, which import or start it
        used = rf"(import|from) {Path(name).stem}\b|\"{re.escape(Path(name).name)}\""
        assert any(re.search(used, text) for other, text in texts.items() if other != name), f"{name} is of no use"
