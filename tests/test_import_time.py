"""`import chatplan` stays light: torch and transformers load on use."""

from __future__ import annotations

import subprocess
import sys

LIMIT_SECONDS = 0.3
PROGRAM = """
import sys, time
start = time.perf_counter()
import chatplan
print(time.perf_counter() - start, *{"torch", "transformers"}.intersection(sys.modules))
"""


def import_once() -> list[str]:
    result = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    return result.stdout.split()


def test_import_loads_neither_torch_nor_transformers_and_is_quick() -> None:
    results = [import_once() for _ in range(5)]
    assert [heavy for _, *heavy in results] == [[]] * 5
    assert min(float(seconds) for seconds, *_ in results) < LIMIT_SECONDS
