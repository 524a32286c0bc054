"""The one command: what it refuses, and what it asks of Ray, which is none here. A signal to it is in test_fleet.py."""

from __future__ import annotations

import signal
import time
import warnings
from typing import Any

import pytest

from chatplan.adapters.ray_serve import commands
from chatplan.adapters.ray_serve.commands import main

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray has some of its own
    from ray import serve


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("m --host 0.0.0.0", "host 0.0.0.0 can be reached from elsewhere"),
        ("m --num-gpus 0.5", "kv_cache_bytes: with num_gpus=0.5"),
        ("m --replicas two", "replicas: "),
        ("", "model: which one?"),
    ],
)
def test_what_cannot_run_is_said_at_once(
    flags: str, says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CHATPLAN_MODEL", raising=False)
    assert main(flags.split()) == 2
    assert says in capsys.readouterr().err


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What Ray Serve is asked for, in order; it does nothing."""
    calls: list[tuple[str, Any]] = []

    def start(**given: Any) -> None:
        calls.append(("start", given))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as Ray does

    def run(application: Any, name: str) -> None:
        calls.append(("run", name))

    monkeypatch.setattr(serve, "start", start)
    monkeypatch.setattr(serve, "run", run)
    monkeypatch.setattr(serve, "delete", lambda name: calls.append(("delete", name)))
    monkeypatch.setattr(serve, "shutdown", lambda: calls.append(("shutdown", None)))
    monkeypatch.setattr(commands, "configure", lambda settings: None)
    return calls


STARTED = ("start", {"proxy_location": "EveryNode", "http_options": {"host": "127.0.0.1", "port": 8123}})


def test_a_signal_deletes_the_application_before_the_proxies_go(
    asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(time, "sleep", lambda seconds: signal.raise_signal(signal.SIGTERM))
    try:
        assert main(["m", "--port", "8123", "--device", "cpu"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert asked == [STARTED, ("run", "chatplan"), ("delete", "chatplan"), ("shutdown", None)]


def test_what_ray_fails_at_is_said(
    asked: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(application: Any, name: str) -> None:
        raise RuntimeError("no replica starts")

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(serve, "run", fail)
    try:
        assert main(["m", "--port", "8123", "--device", "cpu"]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "error: no replica starts" in capsys.readouterr().err
    assert asked == [STARTED, ("shutdown", None)]
