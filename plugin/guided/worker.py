"""A child process for work that may take minutes or gigabytes: it can be killed, which a thread cannot.

It is started with the same interpreter and module path, not by ``multiprocessing``, which would run the user's main
script again. Objects travel pickled, over its standard input and output.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

from chatplan.guided.backend import CannotEnforce

__all__ = ["Worker"]

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from chatplan.guided.worker import serve; serve()"
_START_SECONDS = 120.0  # to import torch from a cold disk
_GIBIBYTE = 2**30


class Worker:
    """Runs jobs in one child process: started by the first, replaced when a job had to be stopped.

    ``prepare(*data())`` runs once in each child, and what it returns is the first argument of every job. Functions are
    pickled by name, so both must be at the top of a module. Threads may share a worker; it does one job at a time.
    ``starting`` is true while a child loads what it needs.
    """

    def __init__(self, prepare: Callable[..., Any], data: Callable[[], tuple[Any, ...]], memory: int = 4 * _GIBIBYTE):
        self._prepare, self._data, self._memory = prepare, data, memory
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self.starting: bool = False

    def run(self, job: Callable[..., Any], *arguments: Any, seconds: float) -> Any:
        """What ``job(prepared, *arguments)`` returns. Starting the child and waiting for others do not count.

        Raises:
            CannotEnforce: the job raised something, took more time or memory than it may, or crashed.
        """
        with self._lock:
            child = self._started()
            try:
                kept, result = child.ask((job, arguments, seconds), seconds)
            except BaseException:
                self.close()
                raise
            if not kept:
                self.close()
        if isinstance(result, CannotEnforce):
            raise result
        return result

    def close(self) -> None:
        """Stop the child, if there is one; the next job starts another."""
        child, self._child = self._child, None
        if child is not None:
            child.stop()

    def _started(self) -> _Child:
        if self._child is None or not self._child.alive():
            self.close()
            self.starting = True
            try:
                self._child = self._new_child()
            finally:
                self.starting = False
        return self._child

    def _new_child(self) -> _Child:
        child = _Child()
        try:
            _, error = child.ask((self._prepare, self._data(), self._memory), _START_SECONDS)
            if error is not None:
                raise error
        except BaseException:
            child.stop()
            raise
        return child


class _Child:
    """A process and the pipes to it."""

    def __init__(self) -> None:
        command = [sys.executable, "-c", _START, json.dumps(sys.path)]
        pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
        # A session of its own: Ctrl-C in the terminal is for the parent.
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nothing, start_new_session=True)
        self.owner = os.getpid()
        self.stop = weakref.finalize(self, _stop, self.process, self.owner)

    def alive(self) -> bool:
        """Whether it can be asked: it runs, and this process did not come from its parent by ``fork``."""
        return self.owner == os.getpid() and self.process.poll() is None

    def ask(self, message: Any, seconds: float) -> tuple[bool, Any]:
        """Whether the child may be kept, and its answer, within ``seconds``. Otherwise it is dead."""
        late = threading.Event()

        def kill() -> None:
            late.set()
            self.process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            kept, answer = self._exchange(message)
        except (OSError, EOFError, pickle.UnpicklingError):
            reason = f"it took more than {seconds:g} s" if late.is_set() else "it crashed, or took too much memory"
            return False, CannotEnforce(f"the library gave up: {reason}", passing=True)
        finally:
            timer.cancel()
            timer.join()
        return kept and not late.is_set(), answer

    def _exchange(self, message: Any) -> tuple[bool, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(pickle.dumps(message))
        self.process.stdin.flush()
        kept, answer = pickle.load(self.process.stdout)
        return bool(kept), answer


def _stop(process: subprocess.Popen[bytes], owner: int) -> None:
    """Kill and reap it, at the latest when the interpreter ends. Not after a fork: it is the parent's."""
    if owner != os.getpid():
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


# --- in the child -----------------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer jobs until standard input ends, which it does when the parent is gone."""
    jobs, answers = sys.stdin.buffer, _own_output()
    prepare, data, memory = pickle.load(jobs)
    kept, state = _result(prepare, data)
    failed = isinstance(state, CannotEnforce)
    _send(answers, (kept, state if failed else None))
    _limit_memory(memory)
    while not failed:
        try:
            job, arguments, seconds = pickle.load(jobs)
        except EOFError:
            return
        _limit_time(seconds + 1)
        _send(answers, _result(job, (state, *arguments)))
        _limit_time(0)


def _own_output() -> BinaryIO:
    """Standard output for answers alone: what libraries print goes where errors go."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return output


def _send(answers: BinaryIO, answer: tuple[bool, Any]) -> None:
    answers.write(pickle.dumps(answer))
    answers.flush()


def _result(work: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    try:
        return True, work(*arguments)
    except CannotEnforce as error:
        return True, error
    except MemoryError:
        return False, CannotEnforce("the library gave up: it took too much memory", passing=True)
    except Exception as error:
        return True, CannotEnforce(str(error) or type(error).__name__)


def _limit_memory(memory: int) -> None:
    """What is in use now, and so much more. Where the system does not tell what is in use, there is no limit."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        with open("/proc/self/statm") as pages:
            used = int(pages.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + memory, used + memory))


def _limit_time(seconds: float) -> None:
    """Have the system end this process then, even if its parent is gone and a library holds the interpreter."""
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)
