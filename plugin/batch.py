"""The offline program: ``python -m chatplan.batch in.jsonl out.jsonl --model M``, or ``accelerate launch -m …``."""

from __future__ import annotations

import pkgutil

if __name__ == "__main__":
    pkgutil.resolve_name("chatplan.adapters.batch.commands:main")()
