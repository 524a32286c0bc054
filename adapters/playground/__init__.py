"""The playground: a page that talks to the server it comes from."""

from __future__ import annotations
