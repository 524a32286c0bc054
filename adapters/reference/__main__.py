"""``python -m chatplan.adapters.reference docs/fields.md`` writes the tables of that page anew."""

from __future__ import annotations

import sys
from pathlib import Path

from chatplan.adapters.reference.table import with_field_tables
from chatplan.manager import Plugins


def main(paths: list[str]) -> None:
    for path in map(Path, paths):
        text = path.read_text("utf-8")
        pages = {page.stem for page in (path.parent / path.stem).glob("*.md")}
        path.write_text(with_field_tables(text, Plugins(installed=False), pages), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
