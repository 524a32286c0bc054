"""A lock with an order."""

from __future__ import annotations

import threading
import time

import pytest

from chatplan.engine.turns import Turns


def test_the_most_urgent_goes_first_and_equals_in_order() -> None:
    turns, order, threads = Turns(), [], []

    def work(name: str, priority: int) -> None:
        with turns.turn(priority):
            order.append(name)

    with turns.turn():
        for name, priority in (("a", 1), ("b", 0), ("c", 1), ("d", -2), ("e", 0)):
            threads.append(threading.Thread(target=work, args=(name, priority)))
            threads[-1].start()
            while len(turns) < len(threads):
                time.sleep(0.001)
    for thread in threads:
        thread.join(10)
    assert order == ["d", "b", "e", "a", "c"]


def test_who_stops_waiting_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()

    def interrupted(condition: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(turns._changed, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt), turns.turn():
            pass
    assert len(turns) == 0
    with turns.turn():
        pass


def test_an_error_passes_the_turn_on() -> None:
    turns = Turns()
    try:
        with turns.turn():
            raise ValueError
    except ValueError:
        pass
    with turns.turn():
        assert len(turns) == 0
