"""Ray Serve: replicas of the server behind a gateway. ``python -m chatplan.adapters.ray_serve MODEL`` runs them."""

from __future__ import annotations

try:
    from chatplan.adapters.ray_serve.deploying import application, build
    from chatplan.adapters.ray_serve.settings import RaySettings
except ModuleNotFoundError as _error:
    _hint = f"{_error}; `pip install chatplan[ray]` brings what this needs"
    raise ModuleNotFoundError(_hint, name=_error.name) from _error

__all__ = ["RaySettings", "application", "build"]
