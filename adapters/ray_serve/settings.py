"""What a fleet of replicas can be told: all that one server can, and how many there are."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from chatplan.adapters.server.settings import ServerSettings

__all__ = ["RaySettings"]

_SHARE = Annotated[float, Field(ge=0)]


class RaySettings(ServerSettings):
    """The settings of the server, which every replica gets, and those of Ray Serve.

    Raises:
        pydantic.ValidationError: a value is not valid, or there is no such setting.
    """

    replicas: int = Field(1, ge=0, description="How many replicas; with max_replicas, the least.")
    max_replicas: int | None = Field(None, ge=1, description="Scale up to so many replicas, as the load is.")
    target_ongoing_requests: float = Field(
        16, gt=0, description="Requests for each replica at which the number of replicas stays; with max_replicas."
    )
    max_ongoing_requests: int = Field(
        64, ge=1, description="The most requests at once in one replica; more wait in the gateways, max_queue in each."
    )
    num_gpus: _SHARE = Field(0, description="GPUs for each replica; 0.5 puts two on one GPU.")
    num_cpus: _SHARE = Field(1, description="CPU cores for each replica, which are also its threads.")
    routing: Literal["least-loaded", "prefix"] = Field(
        "least-loaded",
        description="Which replica: the less loaded of two, or the one that has seen the prompt's beginning.",
    )
    prefix_chars: int = Field(2048, ge=1, description="How much of a prompt's beginning chooses the replica.")
    gateways: int = Field(1, ge=1, description="Processes that pass requests on to replicas.")
    retries: int = Field(
        2, ge=0, description="How many further replicas a request may go to, when one dies before it answers."
    )
    queue_seconds: float = Field(60, gt=0, description="The most time that a request waits for a replica.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas: {self.max_replicas} is less than replicas={self.replicas}")
        if self.max_replicas is None and "target_ongoing_requests" in self.model_fields_set:
            raise ValueError("target_ongoing_requests: nothing scales without max_replicas")
        if self.max_replicas is None and self.replicas == 0:
            raise ValueError("replicas: 0 answers nothing; set max_replicas to scale up from it")
        if self.routing != "prefix" and "prefix_chars" in self.model_fields_set:
            raise ValueError("prefix_chars: only routing=prefix reads prompts")
        if 0 < self.num_gpus < 1 and self.chat_settings["kv_cache_bytes"] is None:
            raise ValueError(
                f"kv_cache_bytes: with num_gpus={self.num_gpus:g} replicas share a GPU, and the first would take all "
                "that is left of it; set what each may take"
            )
        if self.uds is not None:
            raise ValueError("uds: Ray Serve listens on a host and a port")
        return self
