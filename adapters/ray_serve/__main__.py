"""``python -m chatplan.adapters.ray_serve MODEL``."""

from __future__ import annotations

import sys

from chatplan.adapters.ray_serve.commands import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
