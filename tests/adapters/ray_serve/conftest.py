"""A Ray cluster in this machine, with the application of ``examples/ray_serve/serve.yaml`` on it."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families

from chatplan.adapters.auth.keys import KeyStore, Limits

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray has some of its own
    import ray
    from ray import serve
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient
    from ray.util.state import list_actors
CONFIG = Path(__file__).parents[3] / "examples" / "ray_serve" / "serve.yaml"
NAME = f"chatplan-{os.getpid()}"
SMALL = {"kv_cache_bytes": 100_000_000, "max_model_len": 1024, "dtype": "float32", "device": "cpu", "num_cpus": 0.5,
         "gateways": 1}  # fmt: skip


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def until(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait for ``what`` to be true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, what
        time.sleep(0.1)


class Fleet:
    """The application: its address, a key, and its replicas, one process each."""

    def __init__(self, config: dict[str, Any], dashboard: str, key: str) -> None:
        self.config, self.key = config, key
        self.url = f"http://127.0.0.1:{config['http_options']['port']}"
        self._dashboard = dashboard

    def deploy(self) -> None:
        """What ``serve deploy`` does with the file."""
        ServeSubmissionClient(self._dashboard).deploy_applications(self.config)
        until(lambda: self.state() == "RUNNING", 240)

    def state(self) -> str:
        found = serve.status().applications.get(NAME)
        assert found is None or found.status != "DEPLOY_FAILED", found
        return found.status.value if found else ""

    def running(self) -> int:
        """How many replicas Ray says there are, and that they run."""
        states: Any = serve.status().applications[NAME].deployments["Replica"].replica_states
        return sum(states.values()) if set(states) == {"RUNNING"} else 0

    def processes(self) -> dict[str, int]:
        """The process id of each replica that lives, by its name."""
        prefix = f"SERVE_REPLICA::{NAME}#Replica#"
        living: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], address=self._dashboard)
        mine = [actor for actor in living if (actor.name or "").startswith(prefix)]
        return {actor.name.removeprefix(prefix): actor.pid for actor in mine}

    def kill(self, replica: str) -> None:
        os.kill(self.processes()[replica], signal.SIGKILL)

    def metric(self, name: str) -> dict[str, float]:
        """The sum of a metric's samples for each replica."""
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(httpx.get(f"{self.url}/metrics", timeout=60).text):
            for sample in family.samples:
                if sample.name == name:
                    replica = sample.labels["replica"]
                    sums[replica] = sums.get(replica, 0) + sample.value
        return sums

    def until(self, what: Callable[[], object], seconds: float = 120) -> None:
        until(what, seconds)


@pytest.fixture(scope="session")
def fleet(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Two replicas on one GPU, which is none: Ray counts what it is told."""
    folder = tmp_path_factory.mktemp("ray")
    keys = folder / "keys.json"
    _, key = KeyStore(keys).create("tests", Limits())
    config = yaml.safe_load(CONFIG.read_text())
    config["http_options"] = {"host": "127.0.0.1", "port": free_port()}
    app = config["applications"][0]
    app["name"] = NAME
    del app["runtime_env"], app["args"]["max_replicas"], app["args"]["target_ongoing_requests"]
    app["args"] |= {"model": model_path, "auth": {"keys_file": str(keys)}, "keep_alive_seconds": 0.3, **SMALL}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_AUTH_TOKEN", secrets.token_hex(32))):
            patch.setenv(name, value)
        patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # hidden from these tests, and Ray believes it
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        port = free_port()
        ray.init(num_cpus=2, num_gpus=1, dashboard_port=port, namespace="serve", log_to_driver=False)
        try:
            fleet = Fleet(config, f"http://127.0.0.1:{port}", key)
            fleet.deploy()
            yield fleet
            ended = fleet.processes().values()
        finally:
            ray.shutdown()
        until(lambda: not any(Path(f"/proc/{pid}/exe").exists() for pid in ended), 60)
