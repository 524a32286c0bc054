"""The functions that SageMaker's Hugging Face container looks for in ``code/inference.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatplan.adapters.endpoint.handler import EndpointHandler

__all__ = ["model_fn", "predict_fn"]


def model_fn(model_dir: str, context: object = None) -> EndpointHandler:
    """Load the model, once; newer containers add the server's ``context``."""
    return EndpointHandler(model_dir)


def predict_fn(data: Mapping[str, Any], model: EndpointHandler, context: object = None) -> Any:
    """Answer one decoded JSON body. What is raised reaches the caller as its one line of text."""
    return model(data)
