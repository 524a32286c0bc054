"""The child process: limits, and what is left behind."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path

import forked
import pytest
from waiting import wait_until

from chatplan.guided import CannotEnforce
from chatplan.guided.honours import Honours
from chatplan.guided.worker import Worker

SCRIPT = """
import importlib
from operator import methodcaller
from chatplan.guided.worker import Worker

print("main script")
worker = Worker(importlib.import_module, lambda: ("os",))
print("child", worker.run(methodcaller("getpid"), seconds=60))
"""


def holding(module: str, memory: int = 2**32) -> Worker:
    """A worker whose jobs get the module."""
    return Worker(importlib.import_module, lambda: (module,), memory)


def runs(process_id: int) -> bool:
    """Whether there is such a process that has not ended."""
    if not Path("/proc/self/stat").exists():
        pytest.skip("only /proc says of a process that is not our child whether it has ended")
    try:
        status = Path(f"/proc/{process_id}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def assert_ends(process_id: int) -> None:
    wait_until(lambda: not runs(process_id), what=f"process {process_id} ends")


def test_jobs_run_in_one_child() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=60)
    assert process_id != os.getpid()
    assert worker.run(methodcaller("getpid"), seconds=60) == process_id


def test_nothing_starts_before_the_first_job() -> None:
    assert holding("no.such.module")._child is None


def test_a_job_is_stopped_at_its_limit_and_the_next_one_runs() -> None:
    worker = holding("time")
    worker.run(methodcaller("time"), seconds=60)
    child = worker._child
    assert child is not None
    with pytest.raises(CannotEnforce, match=r"more than 0\.3 s") as caught:
        worker.run(methodcaller("sleep", 600), seconds=0.3)
    assert caught.value.passing
    assert not runs(child.process.pid)
    assert worker.run(methodcaller("strftime", "x"), seconds=60) == "x"


def test_a_job_is_stopped_when_it_takes_too_much_memory() -> None:
    worker = holding("builtins", memory=2**28)
    with pytest.raises(CannotEnforce, match="memory") as caught:
        worker.run(methodcaller("bytearray", 2**30), seconds=60)
    assert caught.value.passing
    assert worker.run(methodcaller("bytearray", 2), seconds=60) == bytearray(2)


def test_a_crash_is_an_error_and_the_next_job_runs() -> None:
    worker = holding("os")
    with pytest.raises(CannotEnforce, match="crashed"):
        worker.run(methodcaller("abort"), seconds=60)
    assert worker.run(methodcaller("getcwd"), seconds=60) == os.getcwd()


def test_what_a_job_raises_is_told_and_the_child_stays() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=60)
    with pytest.raises(CannotEnforce, match="no attribute 'nothing'"):
        worker.run(methodcaller("nothing"), seconds=60)
    assert worker.run(methodcaller("getpid"), seconds=60) == process_id


def test_refusals_keep_their_place() -> None:
    worker = holding("chatplan.guided.keywords")
    with pytest.raises(CannotEnforce, match="false") as caught:
        worker.run(methodcaller("honoured", {"anyOf": [False]}, Honours("x", {}, refuse=repr)), seconds=60)
    assert caught.value.place == "/anyOf/0"


def test_a_library_that_is_missing_is_an_error() -> None:
    worker = holding("no_such_library")
    for _ in range(2):
        with pytest.raises(CannotEnforce, match="no_such_library"):
            worker.run(methodcaller("x"), seconds=60)


def test_what_libraries_print_disturbs_nothing() -> None:
    worker = holding("builtins")
    assert worker.run(methodcaller("print", "loud"), seconds=60) is None
    assert worker.run(methodcaller("len", "ab"), seconds=60) == 2


def test_a_start_is_not_part_of_the_limit() -> None:
    worker = Worker(time.sleep, lambda: (0.5,))
    seen: list[bool] = []
    worker._data = lambda: seen.append(worker.starting) or (2.5,)  # type: ignore[func-returns-value]
    assert not worker.starting
    assert worker.run(methodcaller("__bool__"), seconds=2) is False
    assert seen == [True]
    assert not worker.starting


def test_threads_share_a_worker() -> None:
    worker = holding("operator")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda at: worker.run(methodcaller("neg", at), seconds=60), range(40)))
    assert results == [-at for at in range(40)]


def test_the_child_ends_with_its_worker() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=60)
    assert runs(process_id)
    del worker
    assert_ends(process_id)


def test_closing_ends_the_child_and_the_next_job_starts_another() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=60)
    worker.close()
    worker.close()
    assert_ends(process_id)
    assert worker.run(methodcaller("getpid"), seconds=60) != process_id


def test_a_child_that_was_killed_is_replaced() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=60)
    os.kill(process_id, signal.SIGKILL)
    assert_ends(process_id)
    assert worker.run(methodcaller("getpid"), seconds=60) != process_id


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_the_child_is_the_parents_alone() -> None:
    worker = holding("os")
    process_id = worker.run(methodcaller("getpid"), seconds=60)
    forked_id = os.fork()
    if forked_id == 0:
        child = worker._child
        shared = child is not None and child.alive()
        worker.close()
        os._exit(7 if shared else 0)
    ended: list[int] = []

    def over() -> bool:
        done, status = os.waitpid(forked_id, os.WNOHANG)
        ended.extend([os.waitstatus_to_exitcode(status)] if done else [])
        return bool(done)

    wait_until(over)
    assert ended == [0]
    assert worker.run(methodcaller("getpid"), seconds=60) == process_id


def test_a_script_without_main_guard_runs_once_and_leaves_no_child(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, check=True, timeout=100
    )
    assert done.stdout.count("main script") == 1
    assert not done.stderr
    assert_ends(int(done.stdout.split()[-1]))


LATE = """
import importlib, os, threading, time
from operator import methodcaller
from chatplan.guided.worker import Worker

worker = Worker(importlib.import_module, lambda: ("time",))
worker.run(methodcaller("time"), seconds=60)
print("child", worker._child.process.pid, flush=True)
busy = threading.Thread(target=worker.run, args=[methodcaller("sleep", 600)], kwargs={"seconds": 1}, daemon=True)
busy.start()
time.sleep(0.3)  # the job is on its way; if it is not, the child ends anyway
os.kill(os.getpid(), 9)
"""


def test_a_job_ends_at_its_limit_when_its_parent_is_gone(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(LATE)
    killed = forked.run([script], capture_output=True, text=True, timeout=100)
    assert_ends(int(killed.stdout.split()[-1]))


def test_the_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT + "import os, sys\nsys.stdout.flush()\nos.kill(os.getpid(), 9)\n")
    killed = forked.run([script], capture_output=True, text=True, timeout=100)
    assert_ends(int(killed.stdout.split()[-1]))
