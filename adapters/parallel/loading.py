"""Loads a model in shards, one on each rank, and lets rank 0 lead."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, NoReturn

import torch.distributed as distributed
import transformers
from packaging.version import Version
from torch.distributed.distributed_c10d import _set_pg_timeout

from chatplan.adapters.parallel.processes import SECONDS, Followers, connect, launched, leave
from chatplan.engine.channel import Channel
from chatplan.engine.relay import Leader, follow
from chatplan.engine.tensor_parallel import LEADERS
from chatplan.errors import EngineError

__all__ = ["follow_and_leave", "load_shard", "share", "tensor_parallel"]

Release = Callable[[bool], None]

log: logging.Logger = logging.getLogger("chatplan")

OLDEST = "5.23"
_HEADS = ("num_attention_heads", "num_key_value_heads")
_GATHERED = {"colwise": "colwise_gather_output", "rowwise": "rowwise_split_input"}


def tensor_parallel(name: str, size: int, *, seconds: float = SECONDS, **arguments: Any) -> Any:
    """Load a checkpoint in ``size`` shards. Returns rank 0's, which runs on the engine ``tensor_parallel``.

    Under torchrun the other ranks stay in this call until rank 0 has ended, and then leave the program with code 0.
    Without torchrun the other ranks are processes started from here.

    Args:
        name: of the checkpoint, or its folder.
        seconds: the longest that one rank waits for another inside a step.
        arguments: as for ``from_pretrained``: ``dtype`` and so on.

    Raises:
        EngineError: the model cannot be divided so, or a rank did not start.
    """
    attention_plan(name, size, arguments)  # before processes are started
    if launched():
        connect(size)
        return share(load_shard(name, size, seconds, arguments), seconds, leave)
    if distributed.is_initialized():
        raise EngineError("this process is one of a group already, and can load one model on several ranks")
    followers = Followers(size, {"name": name, "size": size, "seconds": seconds, "arguments": arguments})
    try:
        model = load_shard(name, size, seconds, arguments)
        followers.wait("loaded")
        return share(model, seconds, followers.end, followers)
    except BaseException:
        followers.end(well=False)
        raise


def share(
    model: Any, seconds: float = SECONDS, release: Release = lambda well: None, followers: Followers | None = None
) -> Any:
    """Rank 0 leads with a model that all ranks have loaded; the others follow here, and then leave the program.

    Args:
        release: called on rank 0 at the end, with whether it has let the others go.
    """
    if distributed.get_rank() > 0:
        follow_and_leave(model)
    leader = Leader(model, Channel(), seconds)
    if followers is not None:
        followers.watch(leader.break_off)
    LEADERS[model] = leader, weakref.finalize(model, _end, leader, release)
    return model


def _end(leader: Leader, release: Release) -> None:
    leader.close()
    release(leader.closed)


def load_shard(name: str, size: int, seconds: float, arguments: Mapping[str, Any]) -> Any:
    """This rank's part of a checkpoint."""
    from transformers.distributed.configuration_utils import DistributedConfig

    if distributed.get_rank() > 0:
        transformers.logging.disable_progress_bar()
    parts = DistributedConfig(tp_size=size, tp_plan=attention_plan(name, size, arguments))
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(name, distributed_config=parts, **arguments)
    # transformers makes this group, with the longest default of all; nothing public changes it.
    _set_pg_timeout(timedelta(seconds=seconds), model._mesh_manager.get_mesh("tp").get_group())
    return model.eval()


def attention_plan(name: str, size: int, arguments: Mapping[str, Any]) -> dict[str, str] | None:
    """What to change in the model's own plan; ``None`` where each rank gets whole heads.

    Else the weights of attention are divided all the same, but what they make is put together before heads are told
    apart, so that each rank attends with all heads.

    Raises:
        EngineError: the model has no plan, or none that can be changed like this.
    """
    if Version(transformers.__version__).release < Version(OLDEST).release:
        raise EngineError(f"tensor_parallel_size needs transformers {OLDEST}")
    own = {key: value for key, value in arguments.items() if key in ("revision", "token", "trust_remote_code")}
    config: Any = transformers.AutoConfig.from_pretrained(name, **own)
    text = config.get_text_config()
    if not getattr(text, "base_model_tp_plan", None):
        raise EngineError(f"{name}: a {text.model_type} model has no plan for tensor parallel in transformers")
    if all(getattr(text, heads, size) % size == 0 for heads in _HEADS):
        return None
    plan = {f"model.{key}": style for key, style in text.base_model_tp_plan.items() if ".self_attn." in key}
    if text is not config or not plan or not set(plan.values()) <= set(_GATHERED):
        counts = ", ".join(f"{getattr(text, heads, 0)} {heads}" for heads in _HEADS)
        raise EngineError(f"tensor_parallel_size {size} does not divide the heads of {name}: {counts}")
    return {key: _GATHERED[style] for key, style in plan.items()}


def follow_and_leave(model: Any) -> NoReturn:
    """Follow until rank 0 lets go, and leave the program with code 0; with 1 if rank 0 has gone."""
    if threading.current_thread() is threading.main_thread():
        for each in (signal.SIGINT, signal.SIGTERM):  # they are for rank 0, which may still have requests to answer
            signal.signal(each, signal.SIG_IGN)
    try:
        follow(model, Channel())
    except RuntimeError as error:
        log.error("rank %d ends, since rank 0 has gone: %s", distributed.get_rank(), error)
        sys.exit(1)
    leave()
    sys.exit(0)
