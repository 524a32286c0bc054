"""What the container of an Inference Endpoint loads."""

from chatplan.adapters.endpoint import EndpointHandler

__all__ = ["EndpointHandler"]
