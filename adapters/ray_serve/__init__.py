"""Ray Serve: replicas of the server behind a gateway. ``python -m chatplan.adapters.ray_serve MODEL`` runs them."""

from __future__ import annotations

from chatplan.adapters.ray_serve.deploying import application, build
from chatplan.adapters.ray_serve.settings import RaySettings

__all__ = ["RaySettings", "application", "build"]
