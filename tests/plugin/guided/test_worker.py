"""The child process: limits, and what is left behind."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path

import pytest

from chatplan.guided import CannotEnforce
from chatplan.guided.honours import Honours
from chatplan.guided.worker import Worker

SCRIPT = """
import importlib
from operator import methodcaller
from chatplan.guided.worker import Worker

print("main script")
worker = Worker(importlib.import_module, lambda: ("os",))
print("child", worker.run(methodcaller("getpid"), seconds=5))
"""


def holding(module: str, memory: int = 2**32) -> Worker:
    """A worker whose jobs get the module."""
    return Worker(importlib.import_module, lambda: (module,), memory)


def gone(process_id: int) -> bool:
    for _ in range(100):
        if not Path(f"/proc/{process_id}").exists():
            return True
        time.sleep(0.05)
    return False


def test_jobs_run_in_one_child() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=5)
    assert process_id != os.getpid()
    assert worker.run(methodcaller("getpid"), seconds=5) == process_id


def test_nothing_starts_before_the_first_job() -> None:
    assert holding("no.such.module")._child is None


def test_a_job_is_stopped_at_its_limit_and_the_next_one_runs() -> None:
    worker, start = holding("time"), time.monotonic()
    with pytest.raises(CannotEnforce, match=r"more than 0\.3 s"):
        worker.run(methodcaller("sleep", 60), seconds=0.3)
    assert time.monotonic() - start < 10
    assert worker.run(methodcaller("strftime", "x"), seconds=5) == "x"


def test_a_job_is_stopped_when_it_takes_too_much_memory() -> None:
    worker = holding("builtins", memory=2**28)
    with pytest.raises(CannotEnforce, match="memory"):
        worker.run(methodcaller("bytearray", 2**30), seconds=5)
    assert worker.run(methodcaller("bytearray", 2), seconds=5) == bytearray(2)


def test_a_crash_is_an_error_and_the_next_job_runs() -> None:
    worker = holding("os")
    with pytest.raises(CannotEnforce, match="crashed"):
        worker.run(methodcaller("abort"), seconds=5)
    assert worker.run(methodcaller("getcwd"), seconds=5) == os.getcwd()


def test_what_a_job_raises_is_told_and_the_child_stays() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=5)
    with pytest.raises(CannotEnforce, match="no attribute 'nothing'"):
        worker.run(methodcaller("nothing"), seconds=5)
    assert worker.run(methodcaller("getpid"), seconds=5) == process_id


def test_refusals_keep_their_place() -> None:
    worker = holding("chatplan.guided.keywords")
    with pytest.raises(CannotEnforce, match="false") as caught:
        worker.run(methodcaller("honoured", {"anyOf": [False]}, Honours("x", {}, refuse=repr)), seconds=5)
    assert caught.value.place == "/anyOf/0"


def test_a_library_that_is_missing_is_an_error() -> None:
    worker = holding("no_such_library")
    for _ in range(2):
        with pytest.raises(CannotEnforce, match="no_such_library"):
            worker.run(methodcaller("x"), seconds=5)


def test_what_libraries_print_disturbs_nothing() -> None:
    worker = holding("builtins")
    assert worker.run(methodcaller("print", "loud"), seconds=5) is None
    assert worker.run(methodcaller("len", "ab"), seconds=5) == 2


def test_a_start_is_not_part_of_the_limit() -> None:
    worker = Worker(time.sleep, lambda: (0.5,))
    assert worker.run(methodcaller("__bool__"), seconds=0.3) is False


def test_threads_share_a_worker() -> None:
    worker = holding("operator")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda at: worker.run(methodcaller("neg", at), seconds=5), range(40)))
    assert results == [-at for at in range(40)]


def test_the_child_ends_with_its_worker() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=5)
    del worker
    assert gone(process_id)


def test_a_script_without_main_guard_runs_once_and_leaves_no_child(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, "-W", "error", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("main script") == 1
    assert not done.stderr
    assert gone(int(done.stdout.split()[-1]))


def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "import os, sys\nsys.stdout.flush()\nos.kill(os.getpid(), 9)\n")
    killed = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert gone(int(killed.stdout.split()[-1]))
