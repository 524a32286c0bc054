"""What a job is told: which model answers, and how."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from chatplan.adapters.batch.lines import Line
from chatplan.settings import Settings

__all__ = ["Options"]

# How the answers come about, not what they are.
_RUNNING = (
    "batch_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "kv_cache_bytes",
    "enable_prefix_caching",
    "pack_weights",
)


@dataclass(frozen=True)
class Options:
    """A model, its plugins, and defaults for requests.

    Attributes:
        model: a name on the hub, or a folder.
        served_model_name: what requests call the model; "" for ``model``.
        dtype: the type of the weights.
        plugins, disable, defaults: as :class:`~chatplan.Chat` takes them.
        engine: the engine to run on.
        device_map: how accelerate places the layers; ``None`` puts a whole model on each process's device.
    """

    model: str
    served_model_name: str = ""
    dtype: str = "auto"
    plugins: tuple[str, ...] = ()
    disable: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    engine: str = "auto"
    device_map: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready data."""
        # Through JSON, so that it equals what was read back from a file.
        data: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return data

    def line_id(self, line: Line) -> str:
        """The id of a line's answer: the same for the same question to the same model, however it is run."""
        asked = self.to_dict()
        del asked["engine"], asked["device_map"]
        asked["settings"] = {name: value for name, value in asked["settings"].items() if name not in _RUNNING}
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        return f"batch_req_{line.derive(digest)}"
