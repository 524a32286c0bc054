"""A job on disk: whose it is, when it is complete, and what is left when it stops at the worst moment."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
from filelock import FileLock

import chatplan.adapters.batch.job as job_module
from chatplan.adapters.batch.job import Job
from chatplan.adapters.batch.lines import check_file
from chatplan.adapters.batch.options import Options
from chatplan.settings import Settings

Files = Any
Body = dict[str, Any]
Ask = Callable[..., Body]


def job_of(files: Files, batch_size: int = 2) -> Job:
    options = Options(files.model, dtype="float32", settings=Settings(batch_size=batch_size))
    return Job(files.source, files.output, check_file(files.source), options)


class Stopped(Exception):
    """Stands for the moment of a kill."""


def test_a_complete_output_is_not_made_again(files: Files, ask: Ask) -> None:
    files.write([ask("a"), ask("b")])
    assert files.run().exit_code == 0
    before = files.output.stat()
    result = files.run("--batch-size", "7")
    assert result.exit_code == 0
    assert "is complete already" in result.stderr
    assert files.output.stat().st_mtime_ns == before.st_mtime_ns
    assert not files.work.exists()


@pytest.mark.parametrize("change", ["input", "default", "truncated", "longer", "foreign"])
def test_another_output_is_not_overwritten(files: Files, ask: Ask, change: str) -> None:
    files.write([ask("a"), ask("b")])
    assert files.run().exit_code == 0
    lines = files.output.read_bytes().splitlines(keepends=True)
    if change == "input":
        files.write([ask("a"), ask("c")])
    replaced = {"truncated": lines[0], "longer": b"".join([*lines, lines[0]]), "foreign": b"my notes\n"}
    files.output.write_bytes(replaced.get(change, b"".join(lines)))
    kept = files.output.read_bytes()
    arguments = ["--default", "top_p=0.5"] if change == "default" else []
    result = files.run(*arguments)
    assert result.exit_code == 2
    assert "--restart replaces it" in result.stderr
    assert files.output.read_bytes() == kept
    assert files.run(*arguments, "--restart").exit_code == 0
    assert len(files.answers()) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-size", "3"], "was begun with batch_size=2, and this is 3; --restart begins anew"),
        (["--engine", "continuous"], 'engine="auto"'),
        (["--default", "top_p=0.5"], "defaults={}"),
        (["--plugin", "trouble"], "plugins=[]"),
    ],
)
def test_a_job_goes_on_only_as_it_was_begun(files: Files, ask: Ask, arguments: list[str], message: str) -> None:
    files.write([ask("a"), ask("b"), ask("c")])
    job = job_of(files)
    with job.locked():
        assert job.open()
        job.save(0, ["{}\n", "{}\n"])
    result = files.run("--batch-size", "2", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    files.write([ask("a"), ask("b"), ask("d")])
    assert "another input file" in files.run("--batch-size", "2").stderr
    result = files.run(*arguments, "--restart") if "continuous" not in arguments else files.run("--restart")
    assert result.exit_code == 0, result.stderr


def test_a_mistake_that_did_nothing_is_not_in_the_way(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    assert files.run("--model", "no/such").exit_code == 2
    assert files.run().exit_code == 0


def test_the_input_is_never_the_output(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    kept = files.source.read_bytes()
    files.output.symlink_to(files.source)
    result = files.run("--restart")
    assert (result.exit_code, files.source.read_bytes()) == (2, kept)
    assert "is the input" in result.stderr


def test_an_output_that_is_a_link_stays_one(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    there = files.folder / "there.jsonl"
    files.output.symlink_to(there)
    assert files.run().exit_code == 0
    assert files.output.is_symlink()
    assert len(files.answers(there)) == 1


def test_an_output_that_is_a_folder_is_refused(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    result = files.run(output=files.folder)
    assert (result.exit_code, result.stderr) == (2, f"error: {files.folder}: is a folder\n")


def test_what_lies_in_the_folder_of_the_work_stays(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    files.work.mkdir()
    (files.work / "mine.txt").write_text("x")
    (files.work / "job.json").write_text("")
    assert files.run().exit_code == 0
    assert len(files.answers()) == 1
    assert [path.name for path in files.work.iterdir()] == ["mine.txt"]


def test_an_input_that_changes_meanwhile_is_noticed(files: Files, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    files.write([ask("a")])
    finish = Job.save

    def save(job: Job, batch: int, lines: list[str]) -> None:
        finish(job, batch, lines)
        files.write([ask("b")])

    monkeypatch.setattr(Job, "save", save)
    result = files.run()
    assert result.exit_code == 2
    assert "has changed since the job began" in result.stderr
    assert not files.output.exists()


def test_the_time_of_answers_is_that_of_the_beginning(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    job = job_of(files)
    with job.locked():
        job.open()
    files.source.touch()
    assert files.run("--batch-size", "2").exit_code == 0
    assert files.answers()[0]["response"]["body"]["created"] == 1_700_000_000


def test_two_programs_do_not_write_one_output(files: Files, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_module, "_PATIENCE", 0.1)
    files.write([ask("a")])
    files.work.mkdir()
    with FileLock(files.work / "lock"):
        result = files.run()
    assert result.exit_code == 2
    assert "another program is writing it" in result.stderr
    assert files.run().exit_code == 0


def test_an_output_that_cannot_be_written(files: Files, ask: Ask) -> None:
    files.write([ask("a")])
    result = files.run(output=files.folder / "none" / "out.jsonl")
    assert result.exit_code == 2
    assert "cannot be written" in result.stderr


def test_a_stop_while_the_output_is_put_together(files: Files, ask: Ask) -> None:
    files.write([ask(str(at)) for at in range(5)])
    whole = files.folder / "whole.jsonl"
    assert files.run("--batch-size", "2", output=whole).exit_code == 0
    lines = whole.read_text("utf-8").splitlines(keepends=True)
    job = job_of(files)

    def stop(batch: int, line: bytes) -> None:
        if batch == 1:
            raise Stopped

    with job.locked():
        job.open()
        for batch in range(3):
            job.save(batch, lines[2 * batch : 2 * batch + 2])
        with pytest.raises(Stopped):
            job.finish(stop)
    assert not files.output.exists()
    result = files.run("--batch-size", "2")
    assert result.exit_code == 0
    assert "5 answered, 5 of them before; 0 tokens" in result.stderr
    assert files.output.read_bytes() == whole.read_bytes()


def test_a_stop_before_the_work_is_cleared_away(files: Files, ask: Ask) -> None:
    """All moments between the output taking its name and the folder's end, also with another job to follow."""
    files.write([ask(str(at)) for at in range(3)])
    assert files.run("--batch-size", "2").exit_code == 0
    whole = files.output.read_bytes()
    lines = whole.decode().splitlines(keepends=True)
    job = job_of(files)
    with job.locked():
        job.open(restart=True)
        for batch in range(2):
            job.save(batch, lines[2 * batch : 2 * batch + 2])
    kept = shutil.copytree(files.work, files.folder / "kept")
    assert files.run("--batch-size", "2").exit_code == 0  # everything is still there
    assert files.output.read_bytes() == whole
    shutil.move(kept, files.work)
    (files.work / "job.json").unlink()
    assert "is complete already" in files.run("--batch-size", "2").stderr
    assert not files.work.exists()
    files.work.mkdir()
    (files.work / "000000000.jsonl").write_text("stale\n", "utf-8")
    files.write([ask("x"), ask("y")])
    assert files.run("--restart", "--batch-size", "2").exit_code == 0
    assert [answer["custom_id"] for answer in files.answers()] == ["r-0", "r-1"]


def test_a_batch_that_was_half_written_is_none(files: Files, ask: Ask) -> None:
    files.write([ask("a"), ask("b"), ask("c")])
    whole = files.folder / "whole.jsonl"
    assert files.run("--batch-size", "2", output=whole).exit_code == 0
    job = job_of(files)
    with job.locked():
        job.open()
        (files.work / "000000000.jsonl.77.tmp").write_text(json.dumps({"id": "half"})[:7], "utf-8")
        assert job.done() == set()
    assert files.run("--batch-size", "2").exit_code == 0
    assert files.output.read_bytes() == whole.read_bytes()
