"""Ray Serve: replicas of the server behind a gateway. ``python -m chatplan.adapters.ray_serve MODEL`` runs them."""

from __future__ import annotations

try:
    from chatplan.adapters.ray_serve.deploying import application, build
    from chatplan.adapters.ray_serve.settings import RaySettings
except ModuleNotFoundError as error:
    hint = f"{error}; `pip install chatplan[ray]` brings what this needs"
    raise ModuleNotFoundError(hint, name=error.name) from error

__all__ = ["RaySettings", "application", "build"]
