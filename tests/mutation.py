"""Does a test fail when one place of the product is made wrong? For developers, run by hand:

    python tests/mutation.py hooks/filters.py              every mutant of one file, by the tests that read it
    python tests/mutation.py hooks/filters.py --sample 20  twenty of them, the same twenty each time
    python tests/mutation.py --kept                        the mutants of tests/mutants.jsonl
    python tests/mutation.py --kept min-p-equal            one of these

A mutant is a copy of the tree with one place changed: a comparison turned, a condition that always or never holds, a
number off by one, a call, a keyword or a branch left out. It is *killed* when a test fails, *hangs* when only a time
limit ends it, and *survives* when all tests pass. A survivor is a test that is missing, or code that does nothing; a
few are neither (a faster way to the same result), so the number to aim at is not all of them.

Each worker has its own copy, and forks a child for each mutant from this process, which has imported torch.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "mutants.jsonl"
FOLDERS = ("plugin", "hooks", "adapters")
# Of the copied tree, what neither the product nor its tests read.
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "__pycache__", "*.egg-info")
# A child starts with these imported; nothing of the project may be among them.
PRELOADED = ("pytest", "torch", "transformers", "pydantic", "pluggy", "jinja2", "httpx", "fastapi", "hypothesis",
             "transformers.models.llama.modeling_llama", "llguidance", "typer", "uvicorn", "openai")  # fmt: skip
LIMIT_SECONDS = 300.0  # for all tests of one mutant; each test has its own limit, too
OPTIONS = ("-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider", "-n0", "-m", "not slow")
VERDICTS = {0: "survives", 5: "untested"}  # by pytest's exit code; any other is a failure

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change of one file; ``tests`` are globs of test files, none for those that read the file."""

    path: str
    find: str
    replace: str
    name: str
    start: int  # of ``find``, in bytes
    tests: tuple[str, ...] = ()

    def apply(self, source: bytes) -> bytes:
        return source[: self.start] + self.replace.encode() + source[self.start + len(self.find.encode()) :]


# --- what can be made wrong ---------------------------------------------------------------------------------------


def mutants_of(path: str) -> Iterator[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    source = (ROOT / path).read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, wrong in changes(ast.parse(source)):
        start = starts[node.lineno - 1] + node.col_offset
        find = source[start : starts[node.end_lineno - 1] + node.end_col_offset].decode()
        brief = " ".join(f"{find} -> {wrong}".split())
        yield Mutant(path, find, wrong, f"{path}:{node.lineno}: {brief}", start)


def changes(node: ast.AST) -> Iterator[tuple[Any, str]]:
    """Each node below this one with the source text to write in its place; types and messages are left alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.Import, ast.ImportFrom, ast.AnnAssign, ast.Raise, ast.arguments, ast.Assert)):
            if isinstance(child, ast.AnnAssign) and child.value is not None:
                yield from changes(ast.Expression(child.value))
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield from ((child, wrong) for wrong in wrongs(child))
        if isinstance(child, (ast.If, ast.While)):
            yield child.test, "False"
            yield child.test, "True"
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield from changes(ast.Module(child.body, []))
        else:
            yield from changes(child)


def wrongs(node: ast.AST) -> Iterator[str]:
    """Return what may stand in place of one expression or statement."""
    match node:
        case ast.Compare(left, [op, *ops], right):
            yield ast.unparse(ast.Compare(left, [COMPARISONS[type(op)](), *ops], right))
        case ast.BoolOp(op, values):
            for at in range(len(values)):
                rest = [*values[:at], *values[at + 1 :]]
                yield f"({ast.unparse(ast.BoolOp(op, rest) if len(rest) > 1 else rest[0])})"
        case ast.UnaryOp(ast.Not(), operand):
            yield f"bool({ast.unparse(operand)})"
        case ast.BinOp(left, op, right) if type(op) in OPERATORS:
            yield f"({ast.unparse(ast.BinOp(left, OPERATORS[type(op)](), right))})"
        case ast.IfExp(_, body, orelse):
            yield f"({ast.unparse(body)})"
            yield f"({ast.unparse(orelse)})"
        case ast.Constant(bool() as value):
            yield repr(not value)
        case ast.Constant(int() | float() as value):
            yield repr(value + 1)
        case ast.Expr(ast.Call() | ast.Await()) | ast.AugAssign():
            yield "pass"
        case ast.Call(func, args, keywords) if keywords:
            for at, keyword in enumerate(keywords):
                if keyword.arg is not None:
                    yield ast.unparse(ast.Call(func, args, [*keywords[:at], *keywords[at + 1 :]]))


def kept(names: Iterable[str]) -> Iterator[Mutant]:
    """The kept mutants, all or those of these names; each must fit exactly one place in the tree."""
    wanted = set(names)
    texts = {path: path.read_text("utf-8") for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))
             if not path.is_symlink()}  # fmt: skip
    for row in map(json.loads, KEPT.read_text("utf-8").splitlines()):
        if wanted and row["name"] not in wanted:
            continue
        places = [path for path, text in texts.items() for _ in range(text.count(row["find"]))]
        if len(places) != 1:
            raise SystemExit(f"{row['name']}: its text stands {len(places)} times in the tree; write its `find` again")
        start = len(texts[places[0]].partition(row["find"])[0].encode())
        path = places[0].relative_to(ROOT).as_posix()
        yield Mutant(path, row["find"], row["replace"], row["name"], start, tuple(row["tests"]))


def tests_of(mutant: Mutant) -> list[str]:
    """The test files for a mutant: named by its globs; else those named after its file, then those that import it."""
    if mutant.tests:
        found = [path for pattern in mutant.tests for path in sorted(ROOT.glob(pattern))]
    else:
        place = Path(mutant.path)
        module = ".".join(("chatplan", *place.with_suffix("").parts)).replace("chatplan.plugin", "chatplan")
        every = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mutation" not in path.name]
        near = [path for path in every if place.stem in path.stem]
        near += [path for path in every if module.removesuffix(".__init__") in path.read_text("utf-8")]
        found = near + [path for path in every if path.parent == ROOT / "tests" / place.parent]
    return list(dict.fromkeys(path.relative_to(ROOT).as_posix() for path in found if path.suffix == ".py"))


# --- running the tests on one -------------------------------------------------------------------------------------


class Worker:
    """A copy of the tree that imports as ``chatplan``; a forked child runs the tests on one mutant in it."""

    def __init__(self, folder: Path) -> None:
        self.tree, self.log, self.sources = folder / "tree", folder / "log", folder / "src"
        self.mutant: Mutant | None = None
        self.pid, self.until = 0, 0.0
        shutil.copytree(ROOT, self.tree, ignore=LEFT_OUT, symlinks=True)
        (self.sources / "chatplan").mkdir(parents=True)
        links = {path.name: path for path in (self.tree / "plugin").iterdir()}
        links |= {name: self.tree / name for name in ("hooks", "adapters")}
        for name, path in links.items():
            (self.sources / "chatplan" / name).symlink_to(path)

    def start(self, mutant: Mutant, tests: list[str]) -> None:
        """Write the mutant and start its tests."""
        self.mutant, self.until = mutant, time.monotonic() + LIMIT_SECONDS
        path = self.tree / mutant.path
        path.write_bytes(mutant.apply(path.read_bytes()))
        self.pid = os.fork()
        if self.pid == 0:
            self.child(tests)

    def verdict(self) -> tuple[str, str] | None:
        """Return killed, hangs, survives or untested, and which test said so; nothing while the tests run."""
        assert self.mutant is not None
        done, status = os.waitpid(self.pid, os.WNOHANG)
        if not done and time.monotonic() < self.until:
            return None
        with contextlib.suppress(ProcessLookupError):  # and what the tests left running
            os.killpg(self.pid, signal.SIGKILL)
        if not done:
            os.waitpid(self.pid, 0)
        shutil.copy(ROOT / self.mutant.path, self.tree / self.mutant.path)
        self.mutant = None
        log = self.log.read_text("utf-8", "replace")
        test = next((line.split()[1] for line in log.splitlines() if line.startswith(("FAILED ", "ERROR "))), "")
        if not done or "Timeout (" in log:
            return "hangs", test
        return VERDICTS.get(os.waitstatus_to_exitcode(status), "killed"), test

    def child(self, tests: list[str]) -> None:
        """Run pytest in the copy; never returns."""
        os.setsid()
        target = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(target, 1)
        os.dup2(target, 2)
        os.chdir(self.tree)
        os.environ |= {"PYTHONPATH": str(self.sources), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(self.sources))
        import pytest

        code = 1
        try:
            code = int(pytest.main([*OPTIONS, *tests]))
        finally:
            os._exit(code)


def judge(mutants: list[Mutant], workers: int) -> dict[str, int]:
    """Print the verdict on each mutant as it comes; return how many there are of each."""
    count = {"killed": 0, "hangs": 0, "survives": 0, "untested": 0}
    waiting = deque(mutants)
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        team = [Worker(Path(folder, str(number))) for number in range(min(workers, len(mutants)))]
        while waiting or any(worker.mutant for worker in team):
            for worker in team:
                mutant = worker.mutant
                if mutant is None and waiting:
                    worker.start(waiting[0], tests_of(waiting.popleft()))
                elif mutant is not None and (found := worker.verdict()):
                    verdict, test = found
                    count[verdict] += 1
                    print(f"{verdict:9} {mutant.name}{f'  <- {test}' if test else ''}", flush=True)
            time.sleep(0.02)
    return count


def preload() -> None:
    """Import what every child would import."""
    for name in PRELOADED:
        __import__(name)
    if "chatplan" in sys.modules:
        raise SystemExit("something outside the project imports chatplan; children could not import their copies")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="a file of the product, or with --kept a name")
    parser.add_argument("--kept", action="store_true", help="the mutants of tests/mutants.jsonl")
    parser.add_argument("--tests", nargs="+", default=(), metavar="GLOB", help="the test files to run")
    parser.add_argument("--lines", metavar="FIRST-LAST", help="only mutants of these lines")
    parser.add_argument("--sample", type=int, metavar="N", help="at most N mutants, chosen the same way each time")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    mutants = list(kept(given.files)) if given.kept else [each for path in given.files for each in mutants_of(path)]
    if given.lines:
        first, last = map(int, given.lines.split("-"))
        mutants = [each for each in mutants if first <= int(each.name.split(":")[1]) <= last]
    if given.sample and given.sample < len(mutants):
        mutants = sorted(random.Random(0).sample(mutants, given.sample), key=lambda each: each.start)
    if given.tests:
        mutants = [Mutant(m.path, m.find, m.replace, m.name, m.start, tuple(given.tests)) for m in mutants]
    preload()
    count = judge(mutants, given.workers)
    print(", ".join(f"{number} {verdict}" for verdict, number in count.items()))
    return 0 if count["killed"] == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
