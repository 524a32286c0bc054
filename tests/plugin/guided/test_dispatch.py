"""Which backend compiles, what is kept of it, and what is refused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from waiting import join, wait_until

from chatplan.errors import RequestError
from chatplan.guided.backend import CannotEnforce, Grammar, GrammarBackend, Matcher
from chatplan.guided.constraint import Constraint
from chatplan.guided.dispatch import Enforcer
from chatplan.settings import Settings


class Made(Grammar):
    def __init__(self, size: int) -> None:
        self.size = size

    def start(self) -> Matcher:
        raise NotImplementedError


class Fake(GrammarBackend):
    """Does what it is told, and keeps the texts it was asked to compile."""

    def __init__(self, name: str, does: Callable[[Constraint], int] = lambda constraint: 0) -> None:
        self.name, self.does = name, does
        self.asked: list[str] = []

    def compile(self, constraint: Constraint) -> Grammar:
        self.asked.append(constraint.text)
        return Made(self.does(constraint))


def refusing(reason: str, place: str = "", wrong: bool = False) -> Callable[[Constraint], int]:
    def refuse(constraint: Constraint) -> int:
        raise CannotEnforce(reason, place, wrong)

    return refuse


def regex(text: str, **more: Any) -> Constraint:
    return Constraint("regex", text, param="guided_regex", **more)


def enforcer(*backends: GrammarBackend, **settings: Any) -> Enforcer:
    return Enforcer(backends, Settings(**settings))


def refusal(work: Enforcer, constraint: Constraint, wanted: str = "auto") -> RequestError:
    with pytest.raises(RequestError) as caught:
        work.compile(constraint, wanted)
    return caught.value


# --- which backend ----------------------------------------------------------------------------------------------------


def test_auto_takes_the_first_that_can() -> None:
    first, second, third = Fake("a", refusing("no")), Fake("b"), Fake("c")
    assert enforcer(first, second, third).compile(regex("x"))[0] == "b"
    assert (first.asked, second.asked, third.asked) == (["x"], ["x"], [])


def test_the_first_of_two_with_one_name_counts() -> None:
    first, second = Fake("a"), Fake("a")
    assert enforcer(first, second).compile(regex("x"))[0] == "a"
    assert (first.asked, second.asked) == (["x"], [])


def test_all_reasons_are_told_when_none_can() -> None:
    error = refusal(enforcer(Fake("a", refusing("too  odd\n", "/x")), Fake("b", refusing("no"))), regex("x"))
    assert str(error) == "guided_regex: no backend can enforce all of it (a: at /x: too odd; b: no)"
    assert error.param == "guided_regex"


def test_a_constraint_that_is_wrong_is_asked_of_nobody_else() -> None:
    second = Fake("b")
    error = refusal(enforcer(Fake("a", refusing("no such type", "/type", wrong=True)), second), regex("x"))
    assert str(error) == "guided_regex: at /type: no such type"
    assert second.asked == []


@pytest.mark.parametrize("wanted", ["b", "b:no-fallback"])
def test_a_named_backend_is_the_only_one_asked(wanted: str) -> None:
    first, second = Fake("a"), Fake("b", refusing("no", "/x"))
    error = refusal(enforcer(first, second), regex("x"), wanted)
    assert str(error) == "guided_regex: b cannot enforce it: at /x: no"
    assert (first.asked, second.asked) == ([], ["x"])


@pytest.mark.parametrize("wanted", ["auto", "auto:no-fallback"])
def test_auto_may_be_named(wanted: str) -> None:
    assert enforcer(Fake("a", refusing("no")), Fake("b")).compile(regex("x"), wanted)[0] == "b"


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("c", "should be one of auto, a, b, got 'c'"),
        ("", "should be one of auto, a, b, got ''"),
        ("A", "should be one of auto, a, b, got 'A'"),
        ("xgrammar", "xgrammar is not installed: pip install 'chatplan[xgrammar]'"),
        ("lm-format-enforcer:no-fallback", "lm-format-enforcer is not installed: pip install "),
    ],
)
def test_names_of_no_backend(wanted: str, text: str) -> None:
    error = refusal(enforcer(Fake("a"), Fake("b")), regex("x"), wanted)
    assert error.param == "guided_decoding_backend"
    assert text in str(error)


def test_without_backends_nothing_can_be_enforced() -> None:
    assert str(refusal(enforcer(), regex("x"))) == "no plugin enforces constraints; the built-in ones are switched off"


# --- what is refused --------------------------------------------------------------------------------------------------


def test_texts_are_measured_in_bytes() -> None:
    backend = Fake("a")
    work = enforcer(backend, guided_bytes=4)
    work.compile(regex("éé"))
    error = refusal(work, regex("ééx"))
    assert str(error) == "guided_regex: is longer than 4 bytes (the setting guided_bytes), got 5"
    assert backend.asked == ["éé"]


def test_half_a_surrogate_pair_is_refused() -> None:
    assert "guided_regex: has half of a surrogate pair" in str(refusal(enforcer(Fake("a")), regex("\ud800")))


def test_what_a_backend_raises_is_an_error_of_the_request() -> None:
    def broken(constraint: Constraint) -> int:
        raise SystemExit("lost") if constraint.text == "exit" else ZeroDivisionError("oh")

    work = enforcer(Fake("a", broken), Fake("b"))
    assert str(refusal(work, regex("x"), "a")).endswith("a cannot enforce it: it failed with ZeroDivisionError: oh")
    assert str(refusal(work, regex("exit"))) == "guided_regex: cannot be compiled: SystemExit: lost"


# --- time and threads -------------------------------------------------------------------------------------------------


class Gate:
    """Compiling waits until it opens."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Semaphore(0)

    def __call__(self, constraint: Constraint) -> int:
        self.entered.release()
        assert self.opened.wait(60)
        return 0


def finished(work: Enforcer) -> None:
    """Waits for the compilations that run on."""
    wait_until(lambda: not work._running)


def test_a_late_grammar_is_kept_for_the_next_request() -> None:
    gate = Gate()
    backend = Fake("a", gate)
    work = enforcer(backend, guided_seconds=0.05)
    error = refusal(work, regex("x"))
    assert str(error) == "guided_regex: takes longer than 0.05 seconds (the setting guided_seconds) to compile"
    gate.opened.set()
    finished(work)
    assert work.compile(regex("x"))[0] == "a"
    assert backend.asked == ["x"]


def test_callers_who_want_the_same_share_one_compilation() -> None:
    gate = Gate()
    backend = Fake("a", gate)
    work = enforcer(backend, guided_seconds=60)
    found: list[Grammar] = []
    threads = [threading.Thread(target=lambda: found.append(work.compile(regex("x"))[1])) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert gate.entered.acquire(timeout=60)
    gate.opened.set()
    for thread in threads:
        join(thread)
    assert len(found) == 20
    assert len(set(map(id, found))) == 1
    assert backend.asked == ["x"]


def test_too_many_that_are_late_are_refused() -> None:
    gate = Gate()
    work = enforcer(Fake("a", gate), guided_seconds=0.02)
    for number in range(8):
        assert "takes longer" in str(refusal(work, regex(f"x{number}")))
    assert "guided_regex: too many constraints" in str(refusal(work, regex("y")))
    assert "takes longer" in str(refusal(work, regex("x0")))  # this one is being compiled already
    gate.opened.set()
    finished(work)
    assert work.compile(regex("y"))[0] == "a"


def test_many_that_are_not_late_run_together() -> None:
    gate = Gate()
    backend = Fake("a", gate)
    work = enforcer(backend, guided_seconds=60)
    threads = [threading.Thread(target=work.compile, args=[regex(f"x{number}")]) for number in range(12)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(backend.asked) == 12, what="each compiles in a thread of its own")
    gate.opened.set()
    for thread in threads:
        join(thread)


# --- what is kept -----------------------------------------------------------------------------------------------------


def asked(backend: Fake, work: Enforcer, constraints: Sequence[Constraint]) -> list[str]:
    """The texts that were compiled for these requests."""
    backend.asked.clear()
    for constraint in constraints:
        work.compile(constraint)
    return list(backend.asked)


def test_what_has_no_part_in_the_grammar_does_not_compile_again() -> None:
    backend = Fake("a")
    work = enforcer(backend)
    surrounded = regex("x", before="<t>", after="</t>", thinking=True)
    other = Constraint("regex", "x", param="structured_outputs.regex")
    assert asked(backend, work, [regex("x"), surrounded, other]) == ["x"]
    assert asked(backend, work, [Constraint("grammar", "x"), regex("x", whitespace="")]) == ["x", "x"]


def test_backends_do_not_share_grammars() -> None:
    work = enforcer(Fake("a"), Fake("b"))
    assert [work.compile(regex("x"), name)[0] for name in ("a", "b", "auto", "b")] == ["a", "b", "a", "b"]


def test_refusals_are_kept_and_name_their_own_field() -> None:
    backend = Fake("a", refusing("no"))
    work = enforcer(backend)
    first = refusal(work, regex("x"))
    second = refusal(work, Constraint("regex", "x", param="structured_outputs.regex"))
    assert (first.param, second.param) == ("guided_regex", "structured_outputs.regex")
    assert backend.asked == ["x"]


def test_the_least_recently_used_grammar_goes_when_memory_is_short() -> None:
    backend = Fake("a", lambda constraint: 100_000)
    work = enforcer(backend, guided_cache_bytes=250_000)
    assert asked(backend, work, [regex("x"), regex("y"), regex("x"), regex("z")]) == ["x", "y", "z"]
    assert asked(backend, work, [regex("x"), regex("z"), regex("y")]) == ["y"]


@pytest.mark.parametrize("size", [250_000, 10_000_000])
def test_a_grammar_larger_than_the_memory_is_used_but_not_kept(size: int) -> None:
    backend = Fake("a", lambda constraint: size)
    work = enforcer(backend, guided_cache_bytes=250_000)
    assert asked(backend, work, [regex("x"), regex("x")]) == ["x", "x"]


# --- backends that take their time to start ---------------------------------------------------------------------------


class Slow(Fake):
    """Starts until it has been asked three times whether it does."""

    def __init__(self, gate: Gate, name: str = "a") -> None:
        super().__init__(name, gate)
        self.gate, self.times = gate, 0

    @property
    def starting(self) -> bool:
        self.times += 1
        if self.times == 3:
            self.gate.opened.set()
        return True


def test_the_time_a_backend_takes_to_start_does_not_count() -> None:
    slow = Slow(Gate())
    assert enforcer(slow, guided_seconds=0.02).compile(regex("x"))[0] == "a"
    assert slow.times >= 3


def test_the_start_of_a_backend_that_is_not_asked_is_no_reason_to_wait() -> None:
    gate = Gate()
    work = enforcer(Fake("a", gate), Slow(Gate(), "b"), guided_seconds=0.02)
    assert "takes longer" in str(refusal(work, regex("x"), "a"))
    gate.opened.set()
    finished(work)


def test_a_refusal_of_several_is_not_kept_when_one_of_them_may_pass() -> None:
    def passing(constraint: Constraint) -> int:
        raise CannotEnforce("no memory", passing=True)

    backend = Fake("a", passing)
    work = enforcer(backend, Fake("b", refusing("no")))
    for _ in range(2):
        assert "(a: no memory; b: no)" in str(refusal(work, regex("x")))
        finished(work)
    assert len(backend.asked) == 2


@pytest.mark.parametrize("passing", [True, False])
def test_a_refusal_that_may_pass_is_not_kept(passing: bool) -> None:
    def refuse(constraint: Constraint) -> int:
        raise CannotEnforce("no memory", passing=passing)

    backend = Fake("a", refuse)
    work = enforcer(backend)
    assert "no memory" in str(refusal(work, regex("x")))
    finished(work)
    refusal(work, regex("x"))
    assert len(backend.asked) == (2 if passing else 1)


@pytest.mark.parametrize(
    ("pattern", "operator"),
    [("[a&&b]", "&&"), ("[[a]b]", "["), ("[a-z--b]", "--"), ("[a~~b]", "~~"), ("x[^[]", "["), ("[[:alpha:]]", "[")],
)
def test_what_dialects_read_differently_is_refused(pattern: str, operator: str) -> None:
    backend = Fake("a")
    assert f"guided_regex: has {operator} in a class" in str(refusal(enforcer(backend), regex(pattern)))
    assert backend.asked == []


def test_operators_are_no_matter_of_other_kinds() -> None:
    assert enforcer(Fake("a")).compile(Constraint("grammar", "start: /[[a]&&b]/"))[0] == "a"


@pytest.mark.parametrize("pattern", [r"[\[a\]]", "[]a]", "[^]a]", "a--b&&c", "[a-]", "[&a]", r"\[[a]\]", "[a]--[b]"])
def test_what_all_read_alike_is_not(pattern: str) -> None:
    assert enforcer(Fake("a")).compile(regex(pattern))[0] == "a"


def broken(constraint: Constraint) -> int:
    raise ZeroDivisionError("oops")


def test_a_bug_in_one_backend_does_not_keep_auto_from_the_next() -> None:
    work = enforcer(Fake("a", broken), Fake("b"))
    assert work.compile(regex("x"))[0] == "b"
    assert "a cannot enforce it: it failed with ZeroDivisionError: oops" in str(refusal(work, regex("x"), "a"))
