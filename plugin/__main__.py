"""``python -m chatplan`` is the command ``chatplan``; so is ``torchrun … -m chatplan``."""

from __future__ import annotations

import pkgutil

if __name__ == "__main__":
    pkgutil.resolve_name("chatplan.adapters.cli:main")()
