"""The door of Hugging Face Inference Endpoints' default container, which Vertex AI and SageMaker have too."""

from __future__ import annotations

from chatplan.adapters.endpoint.handler import EndpointHandler

__all__ = ["EndpointHandler"]
