"""The reference: pages on fields, hooks, settings, errors, commands and plugins, made from what the code says.

Nothing here knows a plugin by name, so that what an installed plugin adds has its pages by itself.
"""

from __future__ import annotations

from chatplan.adapters.reference.fields import field_page
from chatplan.adapters.reference.table import with_field_tables

__all__ = ["field_page", "with_field_tables"]
