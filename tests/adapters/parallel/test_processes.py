"""The processes of the other ranks: how they are started, waited for, watched and ended. They are shells here."""

from __future__ import annotations

import pickle
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import wait_until

from chatplan import EngineError
from chatplan.adapters.parallel import loading, pipelines, processes
from chatplan.engine.tensor_parallel import LEADERS

Start = Callable[..., processes.Followers]
ENDLESS = "exec sleep 600"


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts followers that run these programs; `jobs` of what is made holds what each was told."""
    made: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(processes, "connect", lambda *arguments: None)

    def begin(*programs: str, started: bool = True) -> processes.Followers:
        jobs: dict[int, Any] = {}
        store = processes.open_store()
        monkeypatch.setattr(processes, "open_store", lambda: store)

        def run(number: int, job: bytes) -> subprocess.Popen[bytes]:
            jobs[number] = pickle.loads(job)
            if started:
                store.set(f"chatplan/started/{number}", "")
            made.append(subprocess.Popen(["sh", "-c", programs[number - 1]]))
            return made[-1]

        monkeypatch.setattr(processes, "_start", run)
        followers = processes.Followers(len(programs) + 1, {"name": "tiny"})
        assert jobs == {
            number: {"name": "tiny", "port": store.port, "number": number} for number in range(1, len(programs) + 1)
        }
        return followers

    start_of: Any = begin
    start_of.made = made
    yield start_of
    for process in made:
        process.kill()
        process.wait(60)


def codes(start: Start) -> list[int | None]:
    made: list[subprocess.Popen[bytes]] = start.made  # type: ignore[attr-defined]
    return [process.poll() for process in made]


def test_a_rank_that_ends_before_it_has_begun_takes_the_others_along(start: Start) -> None:
    with pytest.raises(EngineError, match="rank 2 ended with code 3 before it had started"):
        start(ENDLESS, "exit 3", started=False)
    assert codes(start) == [-9, 3]


def test_a_rank_that_ends_while_it_loads_is_named(start: Start) -> None:
    followers = start(ENDLESS, "exit 4")
    with pytest.raises(EngineError, match="rank 2 ended with code 4 before it had loaded"):
        followers.wait("loaded")
    assert codes(start)[0] is None
    followers.end(well=False)
    assert codes(start) == [-9, 4]


def test_waiting_is_over_when_all_have_come(start: Start) -> None:
    followers = start(ENDLESS, ENDLESS)
    for number in (2, 1):
        assert not followers._store.check([f"chatplan/loaded/{number}"])
        followers._store.set(f"chatplan/loaded/{number}", "")
    followers.wait("loaded")


def test_a_rank_that_ends_by_itself_is_told_and_one_that_is_let_go_is_not(start: Start) -> None:
    told: list[str] = []
    followers = start("exec sleep 600", "read line; exit 5")
    followers.watch(told.append)
    wait_until(lambda: told)
    assert told == ["rank 2 has ended with code 5"]
    followers.end(well=False)
    assert codes(start) == [-9, 5]
    time.sleep(0.05)
    assert len(told) == 1


def test_those_that_were_let_go_have_time_to_end(start: Start, tmp_path: Path) -> None:
    followers = start(f"while ! test -e {tmp_path}/go; do sleep 0.01; done; exit 0")
    (tmp_path / "go").touch()
    followers.end(well=True)
    assert codes(start) == [0]


def test_what_does_not_end_is_killed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE", 0.1)
    followers = start(ENDLESS, ENDLESS)
    followers.end(well=True)
    assert codes(start) == [-9, -9]


@pytest.mark.parametrize(
    ("variables", "launched"),
    [({}, False), ({"WORLD_SIZE": "1", "RANK": "0"}, False), ({"WORLD_SIZE": "2"}, False),
     ({"WORLD_SIZE": "2", "RANK": "1"}, True)],
    ids=str,
)  # fmt: skip
def test_torchrun_says_that_it_started_us(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], launched: bool
) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert processes.launched() is launched


def test_another_number_of_ranks_than_torchrun_started_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(EngineError, match="tensor_parallel_size is 2, and 3 processes were started"):
        processes.connect(2)


# --- who leads --------------------------------------------------------------------------------------------------------


class Nobody:
    """A channel without another end."""

    def __init__(self, broken: bool = False) -> None:
        self.sent: list[str] = []
        self.broken = broken

    def send(self, message: object, seconds: float) -> None:
        if self.broken:
            raise RuntimeError("gone")
        self.sent.append(type(message).__name__)


@pytest.mark.parametrize("broken", [False, True])
def test_the_end_says_whether_the_others_were_let_go(
    monkeypatch: pytest.MonkeyPatch, new_model: Callable[[], Any], broken: bool
) -> None:
    channel, released = Nobody(broken), list[bool]()
    monkeypatch.setattr(loading, "Channel", lambda: channel)
    monkeypatch.setattr("torch.distributed.get_rank", lambda: 0)
    model = new_model()
    assert loading.share(model, 5.0, released.append) is model
    leader, end = LEADERS[model]
    assert leader.seconds == 5.0
    end()
    end()
    assert released == [not broken]
    assert channel.sent == ([] if broken else ["Close"])


# --- a pipeline's arguments -------------------------------------------------------------------------------------------


def test_what_loads_the_model_and_what_is_left_for_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*given: Any, **more: Any) -> str:
        asked.append((given, more))
        return "shard"

    monkeypatch.setattr(pipelines, "tensor_parallel", load)
    given = {"dtype": "float32", "revision": "main", "token": None, "model_kwargs": {"use_cache": True},
             "tensor_parallel_seconds": 9.0, "temperature": 0}  # fmt: skip
    assert pipelines.divided("org/tiny", 2, given) == (
        "shard", {"tokenizer": "org/tiny", "revision": "main", "token": None, "temperature": 0},
    )  # fmt: skip
    assert asked == [(("org/tiny", 2), {"seconds": 9.0, "dtype": "float32", "revision": "main", "use_cache": True})]
    assert pipelines.divided(Path("here"), 2, {"tokenizer": "other"}) == ("shard", {"tokenizer": "other"})
    assert asked[1] == (("here", 2), {"seconds": 300.0})


@pytest.mark.parametrize(
    ("model", "size", "arguments", "message"),
    [
        ("x", 0, {}, "must be at least 1, got 0"),
        ("x", 2, {"device_map": "auto"}, "leave out device and device_map"),
        ("x", 2, {"device": "cpu"}, "leave out device and device_map"),
        (object(), 2, {}, "yet to be loaded"),
    ],
    ids=["size", "device_map", "device", "loaded"],
)
def test_what_cannot_be_divided(model: Any, size: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        pipelines.divided(model, size, arguments)
