"""transformers' manager of continuous batching, set up for one model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import transformers
from packaging.version import Version
from transformers import GenerationConfig, LogitsProcessorList

from chatplan.engine.base import EngineStats
from chatplan.errors import EngineError

if TYPE_CHECKING:
    from chatplan.engine.steps import RowProcessor
    from chatplan.engine.tickets import Ticket
    from chatplan.model import ModelInfo

__all__ = ["Loop", "why_not"]

OLDEST = "5.23"
PAGE = 32  # tokens that a cached prefix is counted in; 256, the default, shares few prompts
_UNLIMITED = 2**31 - 1
_CACHE_BYTES = 2**30
_KNOWN = {"full_attention", "sliding_attention"}

Failed = Callable[["Ticket", Exception], None]


def why_not(info: ModelInfo) -> str | None:
    """Why continuous batching cannot run a model; ``None`` if it can."""
    model: Any = info.require_module()
    config = model.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or _KNOWN)
    devices = {str(device) for device in (getattr(model, "hf_device_map", None) or {}).values()}
    reasons = [
        (Version(transformers.__version__).release < Version(OLDEST).release, f"needs transformers {OLDEST}"),
        (not hasattr(model, "init_continuous_batching"), "it does not generate text"),
        (getattr(model.config, "is_encoder_decoder", False), "it has an encoder"),
        (getattr(model, "_is_stateful", False), "its state is no cache of keys and values"),
        (not layers <= _KNOWN, f"its layers are {', '.join(sorted(layers))}"),
        (len(devices) > 1 or bool(devices & {"disk"}), f"it is spread over {', '.join(sorted(devices))}"),
        (not getattr(model, "_supports_attention_backend", True), "its attention cannot be replaced"),
    ]
    return next((reason for holds, reason in reasons if holds), None) or _own_processors(model)


def _own_processors(model: Any) -> str | None:
    """Checkpoints may ask for logits processors of transformers' own, which only ``generate`` runs."""
    from chatplan.engine.generate import REQUEST_DECIDES

    config = GenerationConfig(**{**model.generation_config.to_diff_dict(), **REQUEST_DECIDES})
    found = [type(item).__name__ for item in model._get_logits_processor(config)]
    return f"its generation config asks for {', '.join(found)}" if found else None


class Loop:
    """The manager and its thread.

    Args:
        processor: draws for the rows of each step.
        failed: told when the loop broke while it held a ticket.
    """

    def __init__(self, info: ModelInfo, processor: RowProcessor, failed: Failed) -> None:
        self.info = info
        self.model: Any = info.require_module()
        self._attention = self.model.config._attn_implementation
        self._closed = False
        self._starting = threading.Lock()
        self.manager: Any = self._make_manager(processor, failed)
        self.cache: Any = self._processor.cache
        self._check_room()
        if self.model.device.type == "cpu":
            self.cache.cache_tensor.zero_()  # take the memory now, and not by and by while it serves
        self._salt()
        self._admit_again()

    def add(self, ticket: Ticket) -> bool:
        """Queue a request; false when the loop is closed."""
        arguments: dict[str, Any] = {"max_new_tokens": _UNLIMITED, "eos_token_id": -1, "ticket": ticket}
        with self._starting:
            while not self._closed:
                self._ensure_running()
                if self.manager.add_request(list(ticket.row.prompt_ids), ticket.name, **arguments) is not None:
                    return True
                time.sleep(0.01)  # it broke just now, and starts again when it has ended
        return False

    def remove(self, ticket: Ticket) -> None:
        """Drop a request at the next step, whether it is done or nobody waits for it."""
        self.manager.cancel_request(ticket.name)

    def can_share(self, prompt_ids: Sequence[int]) -> bool:
        """Whether a prompt's cache can serve a second request."""
        return bool(self.cache.use_prefix_sharing) and len(prompt_ids) > PAGE

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The model as it was loaded, and no step running."""
        with self._starting:
            if self._closed:
                raise EngineError("the engine is closed")
            self._ensure_running()
        with self.manager.pause():
            paged = self.model.config._attn_implementation
            self.model.set_attn_implementation(self._attention)
            try:
                yield
            finally:
                self.model.set_attn_implementation(paged)

    def stats(self) -> EngineStats:
        if self._closed:
            raise RuntimeError("the engine is closed")
        allocators = self.cache.cache_allocators.values()
        held = [len({block for table in list(each.block_table.values()) for block in table}) for each in allocators]
        used = max(count / each.num_blocks for count, each in zip(held, allocators, strict=True))
        waiting = len(self.scheduler.waiting_requests) + self.manager.input_queue.qsize()
        return EngineStats(waiting, len(self.scheduler.active_requests), used)

    def close(self) -> None:
        """Stop the thread and put the model's attention back; what is still running fails."""
        with self._starting:
            self._closed = True
        if self.manager.is_running():
            self.manager.stop(block=True, hard_stop=True)
        self.model.set_attn_implementation(self._attention)

    @property
    def scheduler(self) -> Any:
        """transformers' scheduler; of its own thread, but for reading lengths."""
        return self._processor.scheduler

    def _ensure_running(self) -> None:
        if self.manager.is_running():
            return
        # A thread inherits being a daemon from the one that starts it; else the interpreter would wait for the loop.
        starter = threading.Thread(target=self.manager.start, daemon=True)
        starter.start()
        starter.join()

    def _make_manager(self, processor: RowProcessor, failed: Failed) -> Any:
        config = GenerationConfig(do_sample=False, eos_token_id=-1, max_new_tokens=_UNLIMITED)
        try:
            manager = self.model.init_continuous_batching(config, batching_config(self.info))
            manager.logit_processor = processors(processor)
            manager.output_router = Failures(failed)
            if runs_on_cpu(self.info):
                from chatplan.engine.paged import NAME

                self.model.set_attn_implementation(NAME)
            manager.warmup()  # makes the cache
        except Exception as error:  # whatever it is, `generate` may still do
            self.model.set_attn_implementation(self._attention)
            raise EngineError(f"continuous batching cannot start: {error}") from error
        self._processor = manager.batch_processor
        return manager

    def _check_room(self) -> None:
        room, context = self.cache.num_blocks * PAGE, self.info.context_length
        if context is not None and room < context:
            self.close()
            raise EngineError(
                f"the cache holds {room} tokens and the context is {context}: raise kv_cache_bytes or lower "
                "max_model_len"
            )

    def _admit_again(self) -> None:
        """transformers admits nobody after its cache was full, until a request ends by itself; ours are cancelled."""
        clear = self.scheduler.clear_cancelled_requests

        def clear_and_admit() -> Any:
            cleared = clear()
            if cleared or not self.scheduler.active_requests:
                self.scheduler.block_new_requests = False
            return cleared

        self.scheduler.clear_cancelled_requests = clear_and_admit

    def _salt(self) -> None:
        """Where cached prefixes are looked up and noted, tokens of salted requests become other numbers."""
        search, mark = self.cache.search_prefix_match, self.cache.mark_complete_blocks

        def search_salted(request_id: str, prompt_ids: list[int]) -> int:
            state = self.scheduler.waiting_requests.get(request_id)
            ticket = None if state is None else state.logit_processor_kwargs["ticket"]
            return int(search(request_id, prompt_ids if ticket is None else ticket.salted(prompt_ids)))

        def mark_salted(state: Any, blocks: dict[str, int]) -> None:
            ticket = state.logit_processor_kwargs["ticket"]
            if blocks and ticket.salt is not None:
                names = ("initial_tokens", "generated_tokens")
                salted = {name: ticket.salted(getattr(state, name)) for name in names}
                state = SimpleNamespace(request_id=state.request_id, status=state.status, **salted)
            mark(state, blocks)

        self.cache.search_prefix_match, self.cache.mark_complete_blocks = search_salted, mark_salted


class Failures:
    """Takes transformers' outputs: rows have their tokens already, so only failures matter."""

    def __init__(self, failed: Failed) -> None:
        self.failed = failed

    def deliver(self, output: Any) -> None:
        """Of no use here."""

    def deliver_batch(self, outputs: Sequence[Any]) -> None:
        """Of no use here."""

    def fail_and_deliver(self, state: Any, error: Exception) -> None:
        """The loop broke; the request's row gets the error."""
        wrapped = EngineError(f"{type(error).__name__}: {error}")
        wrapped.__cause__ = error
        self.failed(state.logit_processor_kwargs["ticket"], wrapped)


def processors(processor: RowProcessor) -> Any:
    """transformers' list with ours alone in it."""
    from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessorList

    made = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([processor]))
    made.tensors_required = 1
    return made


def batching_config(info: ModelInfo) -> Any:
    """transformers' configuration, by our settings. Our processor is Python, which no CUDA graph can hold."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    settings = info.settings
    scheduler, margin = "fifo", None
    if settings.scheduling_policy == "priority":
        from chatplan.engine.priority import NAME as scheduler

        margin = 0.0  # it would keep the urgent out while the less urgent hold the cache
    return ContinuousBatchingConfig(
        page_size=PAGE,
        num_blocks=cache_blocks(info),
        max_batch_tokens=settings.max_num_batched_tokens,
        max_requests_per_batch=min(settings.max_num_seqs, settings.max_num_batched_tokens),
        allow_block_sharing=settings.enable_prefix_caching,
        use_async_batching=False,
        use_cuda_graph=False,
        scheduler_type=scheduler,
        safety_margin=margin,
    )


def cache_blocks(info: ModelInfo) -> int | None:
    """Blocks of the cache; ``None`` leaves it to transformers, which takes what a GPU has left."""
    from transformers.generation.continuous_batching.utils import find_head_dim, find_num_key_value_heads

    model: Any = info.require_module()
    config = model.config.get_text_config()
    block: int = 2 * PAGE * config.num_hidden_layers * find_num_key_value_heads(config) * find_head_dim(config)
    block *= model.dtype.itemsize
    if info.settings.kv_cache_bytes is not None:
        return max(1, info.settings.kv_cache_bytes // block)
    if model.device.type != "cpu":
        return None
    # Room for two whole contexts, so that one long answer does not stop all others; for no more than can run at once.
    most = _CACHE_BYTES // block
    if info.context_length is None:
        return most
    context = -(-info.context_length // PAGE)
    return max(min(most, info.settings.max_num_seqs * context), 2 * context)


def runs_on_cpu(info: ModelInfo) -> bool:
    """Whether our attention can serve the model: on a CPU, every layer seeing everything before it, and no extras."""
    model = info.require_module()
    config = model.config.get_text_config()
    plain = all(getattr(config, name, None) is None for name in ("attn_logit_softcapping", "sliding_window"))
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    return model.device.type == "cpu" and plain and full
