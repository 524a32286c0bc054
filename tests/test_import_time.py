"""`import chatplan` stays light: torch and transformers load on use."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, time
start = time.process_time()
from pydantic import BaseModel
import pluggy
between = time.process_time()
import chatplan
print((time.process_time() - between) / (between - start), *{"torch", "transformers"}.intersection(sys.modules))
"""


def import_once() -> list[str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True, timeout=100)
    return done.stdout.split()


def test_import_loads_neither_torch_nor_transformers_and_takes_less_processor_time_than_pydantic_and_pluggy() -> None:
    results = [import_once() for _ in range(5)]
    assert [heavy for _, *heavy in results] == [[]] * 5
    assert min(float(ratio) for ratio, *_ in results) < 1
