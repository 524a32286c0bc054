"""Engines run plans. ``generate`` uses ``model.generate``; others are plugins of the same small interface."""

from chatplan.engine.base import Engine, EngineStats, Runner

__all__ = ["Engine", "EngineStats", "Runner"]
