"""How each server is started, waited for and stopped, and how much memory its processes take."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

sys.path.append(str(Path(__file__).parents[1]))
import quick

__all__ = ["PEERS", "SERVERS", "Running", "Server", "cores", "on_cores", "quick", "stand_in", "start"]

PEERS = Path(os.environ.get("CHATPLAN_PEERS") or Path.home() / ".cache" / "chatplan" / "peers")
HERE = Path(sys.executable).parent
# The chat template's end of turn would end answers early; `transformers serve` knows no ignore_eos.
NO_EOS = {"generation_config": '{"eos_token_id": -1, "pad_token_id": 0}'}


@dataclass(frozen=True)
class Server:
    """A command, where ``{model}``, ``{dtype}``, ``{port}`` are filled in, and what its requests say beside the usual.

    ``model`` is the name that requests ask for: empty for the first one that the server lists.
    """

    command: tuple[str, ...]
    extra: Mapping[str, Any]
    environment: Mapping[str, str] = field(default_factory=dict)
    model: str = ""


def chatplan(engine: str) -> Server:
    options = "serve {model} --host 127.0.0.1 --port {port} --dtype {dtype} --engine".split()
    return Server((str(HERE / "chatplan"), *options, engine), {"ignore_eos": True})


def transformers(*more: str) -> Server:
    options = "serve {model} --host 127.0.0.1 --port {port} --dtype {dtype} --device cpu".split()
    return Server((str(HERE / "transformers"), *options, *more), NO_EOS, model="{model}")


def vllm(*more: str) -> Server:
    """vLLM's CPU build, with the libraries that its documentation asks for, if they are there.

    Left to itself it keeps one core for its scheduler; here it has all of them, as the others do.
    """
    folder = PEERS / "vllm"
    libraries = [str(file) for name in ("libiomp5.so", "libtcmalloc*.so*") for file in (folder / "lib").glob(name)]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
        "LD_PRELOAD": ":".join(libraries),
        "VLLM_NO_USAGE_STATS": "1",
    }
    options = "serve {model} --host 127.0.0.1 --port {port} --dtype {dtype}".split()
    return Server((str(folder / "bin" / "vllm"), *options, *more), {"ignore_eos": True}, environment)


SERVERS = {
    "chatplan": chatplan("continuous"),
    "chatplan-generate": chatplan("generate"),
    "transformers": transformers(),
    "transformers-cb": transformers("--continuous-batching"),
    "vllm": vllm(),
    "vllm-eager": vllm("--enforce-eager"),
}


@dataclass(frozen=True)
class Running:
    """A server that answers at ``url``; ``group`` is the process group of all its processes."""

    server: Server
    url: str
    model: str
    group: int
    ready_seconds: float

    def memory(self) -> dict[str, float]:
        """MB of all its processes: ``pss`` now, shared pages counted once, and ``peak_rss``, the sum of the peaks."""
        found = members(self.group)
        return {
            "pss": sum(kilobytes(process / "smaps_rollup", "Pss:") for process in found) / 1000,
            "peak_rss": sum(kilobytes(process / "status", "VmHWM:") for process in found) / 1000,
        }


def members(group: int) -> list[Path]:
    """The folders in /proc of a process group's living processes."""
    return [folder for folder in Path("/proc").iterdir() if folder.name.isdigit() and is_member(folder, group)]


def is_member(folder: Path, group: int) -> bool:
    with contextlib.suppress(OSError):
        # The name in parentheses may hold spaces.
        state, _, found, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
        return int(found) == group and state != "Z"
    return False


def kilobytes(file: Path, name: str) -> int:
    """A line of a file of /proc; 0 when the process is gone."""
    with contextlib.suppress(OSError):
        for line in file.read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return 0


@contextlib.contextmanager
def start(
    name: str,
    model: str,
    dtype: str,
    threads: int,
    log: Path,
    more: Iterable[str] = (),
    patience: float = 900.0,
) -> Iterator[Running]:
    """Run a server on the first ``threads`` cores, from when it is ready to the end of the block.

    ``more`` are further flags, for ``chatplan serve`` alone.

    Raises:
        RuntimeError: it ended, or did not answer within ``patience`` seconds; with the end of its log.
    """
    server, port = SERVERS[name], free_port()
    values = {"model": model, "dtype": dtype, "port": str(port)}
    command = [part.format(**values) for part in server.command]
    command += more if name.startswith("chatplan") else ()
    count = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    environment = os.environ | count | {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"} | dict(server.environment)
    began = time.monotonic()
    with log.open("wb") as output:
        given: Any = {"env": environment, "stdout": output, "stderr": subprocess.STDOUT, "start_new_session": True}
        if quick.forks() and name.startswith("chatplan"):
            process = quick.Popen(["-m", "chatplan", *command[1:]], **given)
        else:
            process = subprocess.Popen([*on_cores(cores()[:threads]), *command], **given)
    try:
        url = f"http://127.0.0.1:{port}"
        wait(process, url, began + patience, log)
        asked = server.model.format(**values) or httpx.get(f"{url}/v1/models").json()["data"][0]["id"]
        yield Running(server, url, asked, process.pid, time.monotonic() - began)
    finally:
        stop(process)


@contextlib.contextmanager
def stand_in() -> Iterator[str]:
    """The address of a server with a tiny model, where another one is wanted for ``--quick``."""
    log = Path(tempfile.mkdtemp(prefix="chatplan-stand-in-"), "log")
    with start("chatplan", quick.checkpoint(), "float32", 1, log, patience=120) as running:
        yield running.url


def cores() -> list[int]:
    """The cores that this process may use."""
    return sorted(os.sched_getaffinity(0))


def on_cores(numbers: list[int]) -> list[str]:
    """What a command begins with to run on these cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, numbers))]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def wait(process: Any, url: str, until: float, log: Path) -> None:
    """Until /health says 200."""
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        time.sleep(0.5)
    why = "took too long to start" if process.poll() is None else f"ended with code {process.returncode}"
    raise RuntimeError(f"the server {why}:\n" + log.read_text(errors="replace")[-3000:])


def stop(process: Any) -> None:
    """The whole process group: some servers leave children behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(30)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
    # The next server shall not be measured while this one's memory is still given back.
    while members(process.pid):
        time.sleep(0.1)
