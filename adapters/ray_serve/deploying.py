"""From settings to an application of Ray Serve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray import serve
from ray.serve import Application

from chatplan.adapters.ray_serve.gateway import Gateway
from chatplan.adapters.ray_serve.replica import Replica
from chatplan.adapters.ray_serve.routing import PrefixRouter
from chatplan.adapters.ray_serve.settings import RaySettings

__all__ = ["application", "build"]

_SOCKET = ("host", "port", "ssl_certfile", "ssl_keyfile")
_GATEWAY_REQUESTS = 10_000  # it only waits, and max_queue bounds what waits
_GATEWAY_CPUS = 0.1


def build(arguments: Mapping[str, Any]) -> Application:
    """For ``serve run`` and ``serve deploy``: the application that ``arguments``, which are settings, describe.

    Raises:
        ValueError: a setting is not valid, or is one of the cluster's.
    """
    settings = RaySettings(**arguments)
    for name in _SOCKET:
        if name in settings.model_fields_set:
            raise ValueError(f"{name}: Ray's proxies listen for all applications; set http_options of the cluster")
    return application(settings)


def application(settings: RaySettings) -> Application:
    """Gateways and replicas, not running yet.

    Raises:
        ValueError: no model is named.
    """
    if settings.model is None:
        raise ValueError("model: which one?")
    replicas = serve.deployment(**_replica_options(settings))(Replica).bind(settings)
    return serve.deployment(**_gateway_options(settings))(Gateway).bind(replicas, settings)


def _gateway_options(settings: RaySettings) -> dict[str, Any]:
    return {
        "num_replicas": settings.gateways,
        "max_ongoing_requests": _GATEWAY_REQUESTS,
        "ray_actor_options": {"num_cpus": _GATEWAY_CPUS},
        "graceful_shutdown_timeout_s": settings.shutdown_seconds,
    }


def _replica_options(settings: RaySettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "max_ongoing_requests": settings.max_ongoing_requests,
        "max_queued_requests": settings.max_queue,
        "ray_actor_options": {"num_cpus": settings.num_cpus, "num_gpus": settings.num_gpus},
        "graceful_shutdown_timeout_s": settings.shutdown_seconds,
    }
    if settings.max_replicas is None:
        options["num_replicas"] = settings.replicas
    else:
        options["autoscaling_config"] = {
            "min_replicas": settings.replicas,
            "max_replicas": settings.max_replicas,
            "target_ongoing_requests": settings.target_ongoing_requests,
        }
    if settings.routing == "prefix":
        options["request_router_config"] = {"request_router_class": PrefixRouter}
    return options
