"""Programs that are killed, stopped or started several at a time: the output is that of one that ran through."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import forked
import pytest
from waiting import wait_until

from chatplan.adapters.batch.job import Job
from chatplan.adapters.batch.lines import check_file
from chatplan.adapters.batch.options import Options
from chatplan.settings import Settings

Files = Any
Body = dict[str, Any]
Ask = Callable[..., Body]

SMALL = ("--batch-size", "2", "--plugin", "trouble")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are those of POSIX")


def end(program: subprocess.Popen[str], code: int) -> str:
    """What a program said, once it ended as it should."""
    try:
        _, said = program.communicate(timeout=100)
    finally:
        program.kill()
    assert program.returncode == code, said
    return str(said)


def launcher(processes: int) -> list[str]:
    """``accelerate launch`` of several processes, which on a machine without GPUs share its cores."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = ["--multi_gpu", "--num_processes", str(processes)] if processes > 1 else ["--num_processes", "1"]
    common = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return ["-m", "accelerate.commands.launch", *several, *common, "--main_process_port", str(port)]


def whole(files: Files) -> bytes:
    """The output of a job that ran through."""
    output = files.folder / "whole.jsonl"
    result = files.run(*SMALL, output=output)
    assert result.exit_code == 0, result.stderr
    content: bytes = output.read_bytes()
    return content


@posix
def test_a_job_that_is_killed_again_and_again_resumes_to_the_same_bytes(files: Files, bodies: list[Body]) -> None:
    files.write([{**body, "logprobs": not body.get("use_beam_search")} for body in bodies])
    for kills in range(1, 4):  # each run gets one batch further, and what is done stays as it is
        end(files.start(*SMALL, DIE_AT="4"), -signal.SIGKILL)
        assert len(list(files.work.glob("*.jsonl"))) == kills
        assert not files.output.exists()
    assert "6 of them before" in end(files.start(*SMALL), 0)
    output = files.folder / "whole.jsonl"
    end(files.start(*SMALL, output=output), 0)
    assert files.output.read_bytes() == output.read_bytes()


@posix
def test_a_job_that_is_killed_at_once(files: Files, bodies: list[Body]) -> None:
    files.write(bodies)
    end(files.start(*SMALL, DIE_AT="1"), -signal.SIGKILL)
    assert not list(files.work.glob("*.jsonl"))
    assert files.run(*SMALL).exit_code == 0
    assert files.output.read_bytes() == whole(files)


@posix
def test_ctrl_c_says_how_to_go_on(files: Files, bodies: list[Body]) -> None:
    files.write(bodies)
    said = end(files.start(*SMALL, DIE_AT="4", DIE_BY="SIGINT"), 130)
    assert said.strip().endswith("stopped; the same command goes on from here")
    assert files.run(*SMALL).exit_code == 0
    assert files.output.read_bytes() == whole(files)


@posix
@pytest.mark.slow
def test_two_processes_give_the_file_of_one(files: Files, bodies: list[Body]) -> None:
    files.write(bodies)
    forking = ("-m", "forking") if forked.FORKS else ()  # the launcher's workers as well
    said = end(files.start(*SMALL, launcher=[*forking, *launcher(2)]), 0)
    assert said.count("10 answered, 1 refused; ") == 1
    assert files.output.read_bytes() == whole(files)
    assert not files.work.exists()


@posix
@pytest.mark.slow
def test_a_job_of_two_processes_goes_on_with_one(files: Files, bodies: list[Body]) -> None:
    """Killing the launcher alone leaves its workers behind; they go by themselves, and then the output is free."""
    files.write(bodies)
    program = files.start(*SMALL, launcher=launcher(2), SLEEP="0.5")
    wait_until(lambda: list(files.work.glob("*.jsonl")), 100, what="a first batch is answered")
    os.kill(program.pid, signal.SIGKILL)
    program.communicate(timeout=60)  # until its workers, who hold the pipe, have gone too
    result = files.run(*SMALL)
    assert result.exit_code == 0, result.stderr
    assert "of them before" in result.stderr
    assert files.output.read_bytes() == whole(files)


@posix
def test_a_job_of_one_process_goes_on_with_two(files: Files, bodies: list[Body]) -> None:
    files.write(bodies)
    end(files.start(*SMALL, DIE_AT="5"), -signal.SIGKILL)
    assert len(list(files.work.glob("*.jsonl"))) == 2
    first, second = files.start_two(*SMALL)
    assert "4 of them before" in end(first, 0)
    assert "answered" not in end(second, 0)
    assert files.output.read_bytes() == whole(files)


@posix
def test_two_processes_with_nothing_left_to_answer(files: Files, ask: Ask) -> None:
    """The first one puts the output together while the other looks for work."""
    files.write([ask("a"), ask("b")])
    assert files.run("--batch-size", "1").exit_code == 0
    expected = files.output.read_bytes()
    options = Options(files.model, dtype="float32", settings=Settings(batch_size=1))
    job = Job(files.source, files.output, check_file(files.source), options)
    with job.locked():
        job.open(restart=True)
        for batch, line in enumerate(expected.decode().splitlines(keepends=True)):
            job.save(batch, [line])
    files.output.unlink()
    first, second = files.start_two("--batch-size", "1")
    assert "2 answered, 2 of them before" in end(first, 0)
    assert "answered" not in end(second, 0)
    assert files.output.read_bytes() == expected


@posix
def test_several_processes_have_no_device_map(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    first, second = files.start_two("--device-map", "auto")
    assert "--device-map: each process has a whole model" in end(first, 2)
    assert end(second, 2) == ""  # the first one speaks for all


def test_a_line_tells_how_far_it_is_where_there_is_no_terminal(
    files: Files, bodies: list[Body], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatplan.adapters.batch.progress._EVERY", 0)
    files.write(bodies)
    result = files.run("--batch-size", "4")
    assert result.stderr.startswith("4 of 11 requests answered\n8 of 11 requests answered\n11 of 11")


@posix
@pytest.mark.model
@pytest.mark.slow
def test_a_real_model(files: Files, ask: Ask, model_path: str) -> None:
    """In the checkpoint's own type, with a GPU's or a CPU's last bits."""
    files.model = model_path
    files.write([ask(f"Name {at} fruits.", max_tokens=4, logprobs=True) for at in range(4)])
    arguments = (*SMALL, "--dtype", "auto")
    end(files.start(*arguments, DIE_AT="4"), -signal.SIGKILL)
    end(files.start(*arguments), 0)
    other = files.folder / "other.jsonl"
    end(files.start(*arguments, output=other), 0)
    assert files.output.read_bytes() == other.read_bytes()
