"""Tests of the core wait for other threads, by the core's own means; those have no bound where users want none."""

from __future__ import annotations

import threading

import pytest
from waiting import SECONDS


@pytest.fixture(autouse=True)
def _what_never_comes_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that waits without a bound for an answer, a chunk or its turn fails there, instead of hanging."""
    wait = threading.Condition.wait

    def bounded(self: threading.Condition, timeout: float | None = None) -> bool:
        if timeout is not None or threading.current_thread() is not threading.main_thread():
            return wait(self, timeout)
        assert wait(self, SECONDS), f"waited {SECONDS:g} s for what did not come"
        return True

    monkeypatch.setattr(threading.Condition, "wait", bounded)
