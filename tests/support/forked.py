"""Programs in children of a process that has already imported torch, transformers and chatplan.

A new interpreter spends some 7 seconds of processor time on imports before it does anything. `run` and `Popen` take
what those of `subprocess` take, as far as tests need it, and start ``python -m module``, ``python -c code`` or
``python script.py`` in a fork. Where a test is about starting itself (import times, entry points, signals before the
first import), use `subprocess`. On systems without fork both are those of `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

PRELOADED = ("torch", "transformers", "transformers.models.llama.modeling_llama", "chatplan.chat",
             "chatplan.adapters.cli", "chatplan.adapters.pipeline", "chatplan.adapters.batch", "fastapi", "uvicorn",
             "chatplan.adapters.server", "openai")  # fmt: skip
FORKS = hasattr(os, "fork") and sys.platform.startswith("linux")
EXIT_FAILURE = 1
# Where our programs find the process that forks, so that theirs need no other.
SOCKET = "FORKED_SOCKET"


# --- the process that forks -------------------------------------------------------------------------------------------


def serve(path: str) -> None:
    """Fork a child for each connection to the socket at ``path``: what to run comes in, its exit code goes out."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            __import__(name)
    import gc

    gc.collect()
    gc.freeze()  # children share these pages
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for guards
    # Standard input is a pipe from the tests' process: it closes when that is gone, however it ended.
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _guard(connection)


def _guard(connection: socket.socket) -> None:
    """Fork the program, say its process id and then its exit code; ends this process."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    text, files, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 20)
    given = json.loads(text)
    child = os.fork()
    if child == 0:
        connection.close()
        _become(given, files)
    for file in files:
        os.close(file)
    connection.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def _become(given: Mapping[str, Any], files: Sequence[int]) -> None:
    """Run the program as an interpreter would; ends this process."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    if given["new_session"]:
        os.setsid()
    os.chdir(given["cwd"])
    os.environ.clear()
    os.environ.update(given["env"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = os.fdopen(0, "r", encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)
    kind, *arguments = given["arguments"]
    more = [entry for entry in given["env"].get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*more, *(entry for entry in sys.path if entry not in more)]
    code = EXIT_FAILURE
    try:
        if kind == "-m":
            sys.argv = ["", *arguments[1:]]
            sys.path.insert(0, given["cwd"])
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *arguments[1:]]
            sys.path.insert(0, given["cwd"])
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.argv = [kind, *arguments]
            sys.path.insert(0, str(Path(kind).parent.absolute()))
            runpy.run_path(kind, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = _exit_code(end)
    except KeyboardInterrupt:
        traceback.print_exc()
        code = -signal.SIGINT
    except BaseException:
        traceback.print_exc()
    finally:
        code = _finish(code)
        if code < 0:  # an interpreter that Ctrl-C ends dies of the signal
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)


def _exit_code(end: SystemExit) -> int:
    if end.code is None or isinstance(end.code, int):
        return (end.code or 0) & 0xFF
    print(end.code, file=sys.stderr)
    return EXIT_FAILURE


def _finish(code: int) -> int:
    """Wait for threads and run what was registered for the end, as an interpreter does before it goes."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BrokenPipeError:
        code = code or 120
    except BaseException:
        traceback.print_exc()
    with contextlib.suppress(Exception):
        sys.stderr.flush()
    return code


# --- what tests call --------------------------------------------------------------------------------------------------


class _Server:
    """The forking process of this process; starts with the first program and ends with us."""

    def __init__(self) -> None:
        self.path, self.process = os.environ.get(SOCKET, ""), None
        if not self.path:
            self._start()

    path: str
    process: subprocess.Popen[bytes] | None

    def _start(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="forked-")
        self.path = str(Path(self.folder.name, "socket"))
        own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, __file__, self.path]
        self.process = subprocess.Popen(command, env=os.environ | own, stdin=subprocess.PIPE)

    def connect(self) -> socket.socket:
        until = time.monotonic() + 120
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self.path)
                return connection
            except OSError:
                connection.close()
                assert self.process is None or self.process.poll() is None, "the forking process ended"
                assert time.monotonic() < until, "the forking process does not start"
                time.sleep(0.05)


_servers: dict[int, _Server] = {}


class _Forked:
    """What `subprocess.Popen` is, for a program in a fork."""

    def __init__(self, arguments: Sequence[str], *, cwd: Any = None, env: Mapping[str, str] | None = None,
                 stdin: Any = None, stdout: Any = None, stderr: Any = None, text: bool = False,
                 encoding: str | None = None, start_new_session: bool = False) -> None:  # fmt: skip
        self.args, self.returncode = list(arguments), None
        self._text = encoding or ("utf-8" if text else None)
        self._ends: list[int] = []  # of the child, closed here once it has them
        self.stdin = self._stream(stdin, 0)
        self.stdout = self._stream(stdout, 1)
        self.stderr = self._stream(stderr, 2)
        server = _servers.get(os.getpid()) or _servers.setdefault(os.getpid(), _Server())
        given = {"arguments": [str(item) for item in arguments], "cwd": str(cwd or os.getcwd()),
                 "env": {**(os.environ if env is None else env), SOCKET: server.path},
                 "new_session": start_new_session}  # fmt: skip
        self._connection = server.connect()
        socket.send_fds(self._connection, [json.dumps(given).encode() + b"\n"], self._files)
        for end in self._ends:
            os.close(end)
        self._answers = self._connection.makefile("r")
        self.pid = int(self._answers.readline())
        self._ended = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    returncode: int | None
    _files: list[int]

    def _stream(self, given: Any, number: int) -> IO[Any] | None:
        """Add a file for the child; return our end of it where it is a pipe."""
        self._files = [] if number == 0 else self._files
        if given is None:
            self._files.append(number)
        elif given == subprocess.DEVNULL:
            self._ends.append(os.open(os.devnull, os.O_RDWR))
            self._files.append(self._ends[-1])
        elif given == subprocess.STDOUT:
            self._files.append(self._files[1])
        elif given == subprocess.PIPE:
            ours, theirs = os.pipe() if number else reversed(os.pipe())
            self._ends.append(theirs)
            self._files.append(theirs)
            mode = "r" if number else "w"
            if self._text:
                return open(ours, mode, encoding=self._text)
            return open(ours, f"{mode}b")
        else:
            self._files.append(given if isinstance(given, int) else given.fileno())
        return None

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self.returncode = int(self._answers.readline() or -signal.SIGKILL)
        self._ended.set()

    def poll(self) -> int | None:
        return self.returncode if self._ended.is_set() else None

    def wait(self, timeout: float | None = None) -> int | None:
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:
        """Write ``input``, read what is left, and wait for the end."""
        read: dict[str, Any] = {"stdout": None, "stderr": None}

        def drain(name: str) -> None:
            read[name] = getattr(self, name).read()

        readers = [threading.Thread(target=drain, args=[name], daemon=True) for name in read if getattr(self, name)]
        for reader in readers:
            reader.start()
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(input or ("" if self._text else b""))
                self.stdin.close()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        return read["stdout"], read["stderr"]

    def __enter__(self) -> _Forked:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        self.wait(60)


def Popen(arguments: Sequence[Any], **given: Any) -> Any:
    """Start a program: ``["-m", module, …]``, ``["-c", code, …]`` or ``[script, …]``; further arguments as for
    `subprocess.Popen`."""
    if not FORKS:
        return subprocess.Popen([sys.executable, *map(str, arguments)], **given)
    return _Forked([str(item) for item in arguments], **given)


def run(arguments: Sequence[Any], *, input: Any = None, capture_output: bool = False, timeout: float | None = None,
        check: bool = False, **given: Any) -> subprocess.CompletedProcess[Any]:  # fmt: skip
    """Run a program to its end, as `subprocess.run` does."""
    if capture_output:
        given |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        given["stdin"] = subprocess.PIPE
    process = Popen(arguments, **given)
    try:
        out, err = process.communicate(input, timeout)
    except BaseException:
        process.kill()
        raise
    done: subprocess.CompletedProcess[Any] = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


if __name__ == "__main__":
    serve(sys.argv[1])
