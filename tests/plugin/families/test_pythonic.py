"""Python calls are read, never run."""

from __future__ import annotations

import re
from typing import Any

import pytest

from chatplan.families import read_pythonic


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": arguments}


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("f()", [call("f")]),
        ("[f(a=1), g.h(b='x')]", [call("f", a=1), call("g.h", b="x")]),
        ("(f(a=1), g())", [call("f", a=1), call("g")]),
        ("\nf(a=1)\ng(b=2)\n", [call("f", a=1), call("g", b=2)]),
        ("[\n  f(\n    a=1,\n  ),\n]", [call("f", a=1)]),
        ("f(a=-1, b=+2.5, c=-1e-3, d=0x10)", [call("f", a=-1, b=2.5, c=-1e-3, d=16)]),
        (f"f(a={'9' * 400})", [call("f", a=int("9" * 400))]),
        ("f(a=True, b=False, c=None)", [call("f", a=True, b=False, c=None)]),
        ("f(a=true, b=false, c=null)", [call("f", a=True, b=False, c=None)]),
        ("f(a=[1, [2, (3, 4)]], b={'x': {'y': []}})", [call("f", a=[1, [2, [3, 4]]], b={"x": {"y": []}})]),
        ("f(a='[g(b=1)]', b=\"it's\\n\", c='é 𝄞', d='')", [call("f", a="[g(b=1)]", b="it's\n", c="é 𝄞", d="")]),
    ],
)
def test_calls(text: str, calls: list[dict[str, Any]]) -> None:
    assert read_pythonic(text) == calls


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no call in ''"),
        ("[]", "no call in"),
        ("hello there", "not Python calls: "),
        ("f(a='unclosed", "not Python calls: "),
        ("f(a=\0)", "null bytes"),
        ("f(a=" + "[" * 5000 + "]" * 5000 + ")", "not Python calls: "),
        ("f(a=" + "-" * 5000 + "1)", "not Python calls: "),
        ("x = f(a=1)", "not a call: x = f"),
        ("import os", "not a call: import os"),
        ("[f(a=1), 2]", "not a call: 2"),
        ("f()()", "not a function's name: f()"),
        ("f[0](a=1)", "not a function's name: f[0]"),
        ("f(1)", "f: arguments must be named"),
        ("f(**{'a': 1})", "f: arguments must be named one by one"),
        ("f(a=1, a=2)", "f: a is given twice"),
        ("f(a={1: 2})", "not a string: 1"),
        ("f(a={**b})", "not a string: **"),
        *(
            (f"f(a={value})", "not a literal value: ")
            for value in ("g()", "x", "1+1", "not 1", "-'x'", "-True", "1j", "1e999", "b'x'", "...", "f'{x}'", "{1, 2}")
        ),
        ("f(a=[x for x in y])", "not a literal value: "),
    ],
)
def test_anything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        read_pythonic(text)


def test_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.system", lambda command: pytest.fail("it ran"))
    assert read_pythonic("os.system(command='ls')") == [call("os.system", command="ls")]
    with pytest.raises(ValueError, match="not a literal value"):
        read_pythonic("f(a=__import__('os').system('ls'))")
