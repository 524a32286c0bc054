"""``chatplan new-plugin``: a complete plugin package, to be changed into the one that is wanted."""

from __future__ import annotations

from chatplan.adapters.new_plugin.naming import Names
from chatplan.adapters.new_plugin.writing import write_package

__all__ = ["Names", "write_package"]
