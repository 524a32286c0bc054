"""Engines run plans. ``generate`` uses ``model.generate``; others are plugins of the same small interface."""

from chatplan.engine.base import Engine, EngineStats

__all__ = ["Engine", "EngineStats"]
